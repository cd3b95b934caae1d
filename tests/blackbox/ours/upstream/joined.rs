//! Many checks of one digest at the same time.

use crate::harness::{Account, Caller, DIGEST, Home, Remote, Reply, ask_on, unix_time};
use crate::ours::upstream::{PATIENT, asking, found};

/// Waits until the server has received everything that was sent to it before.
fn synchronize(port: u16) {
    assert_eq!(Caller::to(port).answered("ping", &[]).code(), 200);
}

#[test]
fn checks_of_one_digest_cause_one_question_and_each_gets_the_answer() {
    let remote = Remote::holding(7, 2);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    let callers: Vec<Caller> = (0..10).map(|_| Caller::to(server.port())).collect();
    for thread in 2000..2005 {
        callers.iter().for_each(|caller| caller.send("check", &[DIGEST], thread));
    }
    synchronize(server.port());
    remote.receives(1);
    home.opinions_held(0, 50);
    remote.release();
    for caller in &callers {
        let mut replies: Vec<Vec<u8>> =
            (0..5).map(|_| caller.receive(crate::harness::PATIENCE).expect("no reply").0).collect();
        replies.sort();
        let expected: Vec<Vec<u8>> = (2000..2005).map(|thread| found(thread, (7, 2)).into_bytes()).collect();
        assert_eq!(replies, expected);
    }
    assert_eq!(remote.received(), 1);
    let opinions = home.opinions_held(1, 0);
    let counts = ["asked", "joined", "found", "cached_hits"].map(|name| opinions.count(name));
    assert_eq!(counts, [1, 49, 1, 0]);
    // None is answered twice.
    synchronize(server.port());
    let again = callers[0].receive(std::time::Duration::from_millis(100));
    assert!(again.is_none());
}

#[test]
fn signed_and_anonymous_checks_join_each_other() {
    let (bob, eve) = (Account::new("bob"), Account::new("eve"));
    let remote = Remote::holding(7, 2);
    let home = Home::new().passwd(bob.passwd() + &eve.passwd()).config(PATIENT).asking(&[remote.name()]);
    let home = home.access("check : anonymous bob : allow\nping : anonymous : allow\n");
    let server = home.start();
    let sockets: Vec<_> = (0..4).map(|_| server.socket()).collect();
    let headers = |thread: u32| format!("Op: check\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n");
    let time = unix_time();
    sockets[0].send(&bob.sign(&headers(2000), time)).unwrap();
    sockets[1].send(format!("{}\n", headers(2001)).as_bytes()).unwrap();
    sockets[2].send(&bob.sign(&headers(2002), time)).unwrap();
    // No right to check, and refused at once.
    assert_eq!(Reply(ask_on(&sockets[3], eve.sign(&headers(2003), time))).code(), 403);
    remote.receives(1);
    remote.release();
    for (socket, thread) in sockets.iter().zip(2000..2003) {
        let mut reply = [0; 1024];
        let length = socket.recv(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply[..length]), found(thread, (7, 2)));
    }
    assert_eq!(remote.received(), 1);
    assert_eq!(home.opinions().count("joined"), 2);
}

/// The digest in capital letters is the same.
#[test]
fn waiting_checks_all_get_the_plain_miss_when_nothing_answers() {
    let remote = Remote::silent();
    let home = asking(&remote, "UpstreamTimeout = 1\n");
    let server = home.start();
    let callers: Vec<Caller> = (0..20).map(|_| Caller::to(server.port())).collect();
    // Together, so that the question does not time out in between.
    server.signal(nix::sys::signal::Signal::SIGSTOP);
    for (caller, thread) in callers.iter().zip(2000..) {
        let digest = if thread % 2 == 0 { DIGEST.to_owned() } else { DIGEST.to_uppercase() };
        caller.send("check", &[&digest], thread);
    }
    server.signal(nix::sys::signal::Signal::SIGCONT);
    for (caller, thread) in callers.iter().zip(2000..) {
        let reply = caller.receive(crate::harness::PATIENCE).expect("no reply").0;
        assert_eq!(String::from_utf8_lossy(&reply), found(thread, (0, 0)));
    }
    assert_eq!(remote.received(), 1);
    assert_eq!(home.opinions().count("unanswered"), 1);
}

/// A copy of a signed check is a check like any other.
#[test]
fn copies_of_a_signed_check_are_all_answered() {
    let bob = Account::new("bob");
    let remote = Remote::holding(7, 2);
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\nping : anonymous : allow\n");
    let server = home.config(&format!("{PATIENT}ReplayGuard = true\n")).asking(&[remote.name()]).start();
    let request = bob.sign(&format!("Op: check\nOp-Digest: {DIGEST}\nThread: 2000\nPV: 2.1\n"), unix_time());
    let sockets: Vec<_> = (0..3).map(|_| server.socket()).collect();
    for socket in &sockets {
        socket.send(&request).unwrap();
    }
    synchronize(server.port());
    remote.receives(1);
    remote.release();
    for socket in &sockets {
        let mut reply = [0; 1024];
        let length = socket.recv(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply[..length]), found(2000, (7, 2)));
    }
}
