//! Limits: of questions per second, and of those under way.

use std::collections::BTreeSet;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::{Caller, DIGEST, PATIENCE, Remote, Reply, counting, digest, eventually};
use crate::ours::upstream::{PATIENT, asking, number_of, send_checks};

#[test]
fn checks_beyond_the_rate_get_the_plain_miss_at_once() {
    let remote = Remote::holding(7, 2);
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 1\n"));
    let server = home.start();
    let caller = Caller::to(server.port());
    // One batch, in which no further question can become due.
    server.signal(Signal::SIGSTOP);
    send_checks(&caller, 0..40);
    server.signal(Signal::SIGCONT);
    let start = Instant::now();
    let opinions = home.opinions_with("all checks", |it| it.missed() == 40);
    let seconds = start.elapsed().as_secs();
    let asked = opinions.count("asked");
    assert!((1..=2 + seconds).contains(&asked), "{opinions:?}");
    assert_eq!(opinions.declined("rate"), 40 - asked);
    // These replies come although the answers are held.
    for _ in 0..40 - asked {
        assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (0, 0));
    }
    eventually("the questions", || (remote.received() as u64 == asked).then_some(()));
    remote.release();
    for _ in 0..asked {
        assert_eq!(caller.receive(PATIENCE).expect("no reply").counts(), (7, 2));
    }
}

/// What was declined is not known: it is asked for as soon as the rate permits.
#[test]
fn declined_check_is_asked_for_later() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 1\n"));
    let server = home.start();
    let caller = Caller::to(server.port());
    server.signal(Signal::SIGSTOP);
    send_checks(&caller, 0..40);
    server.signal(Signal::SIGCONT);
    let replies: Vec<Reply> = (0..40).map(|_| caller.receive(PATIENCE).expect("no reply")).collect();
    let declined = replies.iter().find(|reply| reply.counts() == (0, 0)).expect("none was declined");
    let digest = digest(number_of(declined));
    eventually("a question", || (server.request("check", &[&digest]).counts() == (7, 2)).then_some(()));
    assert_eq!(remote.counts("check")[&digest], 1);
}

/// Sends checks of so many digests in portions that fit the server's socket. Returns the client and the replies that have
/// come; the last ones may be on their way.
fn flood(port: u16, digests: u32) -> (Caller, Vec<Reply>) {
    let mut caller = Caller::to(port);
    let checks = Caller::to(port);
    let mut replies = Vec::new();
    for first in (0..digests).step_by(50) {
        send_checks(&checks, first..digests.min(first + 50));
        assert_eq!(caller.answered("ping", &[]).code(), 200);
        while let Some(reply) = checks.receive(std::time::Duration::from_millis(1)) {
            replies.push(reply);
        }
    }
    (checks, replies)
}

#[test]
fn questions_under_way_are_bounded() {
    let remote = Remote::silent();
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 1000000\n"));
    let server = home.start();
    let (checks, mut replies) = flood(server.port(), 1500);
    let opinions = home.opinions_with("all checks", |it| it.missed() == 1500);
    if opinions.count("unanswered") > 0 {
        // A machine that needs more than the timeout for this has nothing to show.
        return;
    }
    let (asked, busy) = (opinions.count("asked"), opinions.declined("busy"));
    assert_eq!((asked + busy, opinions.count("joined")), (1500, 0), "{opinions:?}");
    assert!(asked <= 1024, "{opinions:?}");
    assert!(remote.received() as u64 <= asked);
    // Declined checks are answered at once; no answer to a question has come yet.
    while (replies.len() as u64) < busy {
        replies.push(checks.receive(PATIENCE).expect("no reply"));
    }
    assert_eq!(replies.len() as u64, busy);
    assert!(replies.iter().all(|reply| reply.counts() == (0, 0)));
    let answered: BTreeSet<u32> = replies.iter().map(number_of).collect();
    assert_eq!(answered.len() as u64, busy);
    // Those that ask for nothing are served meanwhile.
    assert_eq!(server.request("report", &[&digest(99_999)]).code(), 200);
    assert_eq!(server.request("check", &[&digest(99_999)]).counts(), (1, 0));
    assert!(server.stop().success());
}

/// Checks of digests that exist nowhere, as fast as they can be sent.
#[test]
fn flood_of_random_digests_neither_exceeds_the_rate_nor_displaces_what_was_found() {
    let found: Vec<String> = (0..20).map(|number| digest(1_000_000 + number)).collect();
    let known: BTreeSet<String> = found.iter().cloned().collect();
    let remote = Remote::start(move |datagram| {
        let is_known = datagram.digests().iter().any(|digest| known.contains(*digest));
        counting(datagram, if is_known { (7, 2) } else { (0, 0) })
    });
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 50\nUpstreamCache = 40\n"));
    let server = home.start();
    for digest in &found {
        assert_eq!(server.request("check", &[digest]).counts(), (7, 2));
    }
    let start = Instant::now();
    let (_, replies) = flood(server.port(), 3000);
    assert!(replies.iter().all(|reply| reply.counts() == (0, 0)));
    let opinions = home.opinions_with("all checks", |it| it.missed() == 3020);
    let most = 20 + 50 * (2 + start.elapsed().as_secs());
    assert!(opinions.count("asked") <= most && remote.received() as u64 <= most, "{opinions:?}");
    assert_eq!(opinions.declined("rate") + opinions.count("asked"), 3020, "{opinions:?}");
    let before = remote.received();
    for digest in &found {
        assert_eq!(server.request("check", &[digest]).counts(), (7, 2));
    }
    assert_eq!(remote.received(), before);
}

/// Many clients ask for the same few digests while nothing answers.
#[test]
fn waiting_checks_are_bounded() {
    let remote = Remote::silent();
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 1000000\n"));
    let server = home.start();
    let checks = Caller::to(server.port());
    let mut caller = Caller::to(server.port());
    let mut declined = 0;
    for _ in 0..200 {
        send_checks(&checks, 0..50);
        assert_eq!(caller.answered("ping", &[]).code(), 200);
        while let Some(reply) = checks.receive(std::time::Duration::from_millis(1)) {
            assert_eq!(reply.counts(), (0, 0));
            declined += 1;
        }
    }
    let opinions = home.opinions_with("all checks", |it| it.missed() == 10_000);
    // A machine that needs more than the timeout for this has less to show.
    if opinions.count("unanswered") == 0 {
        assert_eq!(opinions.declined("busy"), 10_000 - 8192);
        for _ in declined..10_000 - 8192 {
            assert_eq!(checks.receive(PATIENCE).expect("no reply").counts(), (0, 0));
        }
        assert_eq!(remote.received(), 50);
    }
    assert!(server.stop().success());
}

/// The places of answered questions are free again.
#[test]
fn many_different_digests_are_all_answered_in_the_end() {
    let remote = Remote::start(|datagram| counting(datagram, (7, 2)));
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 1000000\nUpstreamCache = 100\n"));
    let server = home.start();
    let mut caller = Caller::to(server.port());
    for number in 0..3000 {
        assert_eq!(caller.answered("check", &[&digest(number)]).counts(), (7, 2));
    }
    let opinions = home.opinions_held(100, 0);
    assert_eq!(opinions.count("found"), 3000, "{opinions:?}");
    assert_eq!(remote.counts("check").len(), 3000);
}

/// They would take too much memory while they wait. The answer is held, so the replies show that nothing was waited for.
#[test]
fn very_long_checks_get_the_plain_miss_at_once() {
    let remote = Remote::holding(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    let long = "5".repeat(2000);
    let request = format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: {long}\n\n");
    let reply = server.ask(&request);
    assert!(reply.ends_with(b"\nCount: 0\nWL-Count: 0\n\n"), "{}", reply.escape_ascii());
    assert_eq!(home.opinions().declined("busy"), 1);
    assert_eq!(remote.received(), 0);
}
