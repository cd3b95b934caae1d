//! Second opinions on each engine.

use nix::sys::signal::Signal;

use super::{Store, done};
use crate::harness::{Caller, DIGEST, PATIENCE, Remote, digest};

/// The longest timeout: no answer of the tests takes so long.
const PATIENT: &str = "UpstreamTimeout = 10\n";

/// Returns the reply to a request with this `Thread`, and these counts if it is a check.
fn reply(thread: u32, counts: Option<(i64, i64)>) -> String {
    let counts =
        counts.map(|(reports, whitelistings)| format!("Count: {reports}\nWL-Count: {whitelistings}\n"));
    format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: {thread}\n{}\n", counts.unwrap_or_default())
}

#[track_caller]
fn next(caller: &Caller) -> String {
    let reply = caller.receive(PATIENCE).expect("no reply");
    String::from_utf8(reply.0).unwrap()
}

pub(super) fn unknown_digests_are_asked_for_and_never_stored<S: Store>() {
    let (store, remote) = (S::new(), Remote::counting(7, 2));
    let home = store.home(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    for _ in 0..3 {
        assert_eq!(done(&server, "check", DIGEST).counts(), (7, 2));
    }
    assert_eq!(remote.received(), 1);
    assert_eq!(done(&server, "info", DIGEST).counts(), (0, 0));
    let (reported, whitelisted) = (digest(1), digest(2));
    for digest in [&reported, &whitelisted] {
        assert_eq!(done(&server, "check", digest).counts(), (7, 2));
    }
    // A count of its own, however small, takes the place of the answer.
    done(&server, "report", &reported);
    assert_eq!(done(&server, "check", &reported).counts(), (1, 0));
    done(&server, "whitelist", &whitelisted);
    assert_eq!(done(&server, "check", &whitelisted).counts(), (0, 1));
    assert!(server.stop().success());
    assert_eq!(store.record(&home, DIGEST), None);
    assert_eq!(store.record(&home, &reported).unwrap().0.count, 1);
    assert_eq!(store.record(&home, &whitelisted).unwrap().1.count, 1);
    // The answers were in memory.
    let before = remote.received();
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (7, 2));
    assert_eq!(remote.received(), before + 1);
}

/// The order of the replies shows it: those that wait come after the answer, which is held until all others are there.
pub(super) fn waiting_checks_delay_no_others_of_their_batch<S: Store>() {
    let (store, remote) = (S::new(), Remote::holding(7, 2));
    let home = store.home(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    let known = digest(1_000_000);
    done(&server, "report", &known);
    let caller = Caller::to(server.port());
    // While the server is stopped, everything collects in its socket.
    server.signal(Signal::SIGSTOP);
    let requests = [
        ("check", Some(digest(1))),
        ("check", Some(known.clone())),
        ("check", Some(digest(2))),
        ("ping", None),
        ("check", Some(digest(1))),
        ("report", Some(DIGEST.to_owned())),
        ("info", Some(digest(1))),
        ("check", Some(known)),
        ("check", Some(digest(3))),
    ];
    for ((operation, digest), thread) in requests.iter().zip(2000..) {
        caller.send(operation, &digest.as_deref().into_iter().collect::<Vec<_>>(), thread);
    }
    server.signal(Signal::SIGCONT);
    let mut others: Vec<String> = (0..5).map(|_| next(&caller)).collect();
    others.sort();
    let info = others.remove(3);
    assert!(
        info.contains("\nThread: 2006\nEntered: 0\n") && info.contains("\nCount: 0\nWL-Count: 0\n"),
        "{info}"
    );
    let counted = Some((1, 0));
    assert_eq!(others, [reply(2001, counted), reply(2003, None), reply(2005, None), reply(2007, counted)]);
    // Later ones are not delayed either.
    for _ in 0..50 {
        assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    }
    remote.receives(3);
    remote.release();
    let mut waiting: Vec<String> = (0..4).map(|_| next(&caller)).collect();
    waiting.sort();
    assert_eq!(waiting, [2000, 2002, 2004, 2008].map(|thread| reply(thread, Some((7, 2)))));
    assert!(server.stop().success());
}
