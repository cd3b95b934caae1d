//! Answers that are kept in memory.

use crate::harness::{DIGEST, Remote, Server, counting, digest, eventually};
use crate::ours::upstream::{PATIENT, asking};

fn serve(remote: &Remote, settings: &str) -> Server {
    asking(remote, &format!("{PATIENT}UpstreamRate = 100000\n{settings}")).start()
}

/// Starts a server with this count of digests above 1000, and none of others.
fn remote() -> Remote {
    let of = |text: &str| if u64::from_str_radix(&text[30..], 16).unwrap() > 1000 { (7, 2) } else { (0, 0) };
    Remote::start(move |datagram| counting(datagram, datagram.digests().first().map_or((0, 0), |it| of(it))))
}

/// Two digests: one that is found, and one that is not.
fn pair() -> [String; 2] {
    [digest(1001), digest(1)]
}

#[test]
fn answers_are_kept_whether_found_or_not() {
    let remote = remote();
    let server = serve(&remote, "");
    let [found, missed] = pair();
    for _ in 0..5 {
        assert_eq!(server.request("check", &[&found]).counts(), (7, 2));
        assert_eq!(server.request("check", &[&missed]).counts(), (0, 0));
    }
    assert_eq!(remote.received(), 2);
    let opinions = server.home().opinions_held(2, 0);
    let counts = ["cached_hits", "cached_misses", "asked", "joined"].map(|name| opinions.count(name));
    assert_eq!(counts, [4, 4, 2, 0], "{opinions:?}");
}

/// Polls one of the pair until it is asked for a second time, and expects that the other one is not.
#[track_caller]
fn expect_expiry(settings: &str, expires: usize) {
    let remote = remote();
    let server = serve(&remote, settings);
    let pair = pair();
    eventually("a second question", || {
        for digest in &pair {
            assert_eq!(server.request("check", &[digest]).code(), 200);
        }
        (remote.counts("check")[&pair[expires]] > 1).then_some(())
    });
    assert_eq!(remote.counts("check")[&pair[1 - expires]], 1);
}

#[test]
fn found_digests_are_asked_for_again_after_their_age() {
    expect_expiry("UpstreamCacheAge = 1\n", 0);
}

#[test]
fn missed_digests_are_asked_for_again_after_their_age() {
    expect_expiry("UpstreamMissAge = 1\n", 1);
}

/// The answer may have changed in the meantime, either way.
#[test]
fn new_answer_replaces_the_old_one() {
    let remote = Remote::counting(0, 0);
    let server = serve(&remote, "UpstreamMissAge = 1\nUpstreamCacheAge = 1\n");
    for counts in [(0, 0), (3, 0), (5, 1), (0, 0)] {
        remote.follow(move |datagram| counting(datagram, counts));
        eventually("the new answer", || {
            (server.request("check", &[DIGEST]).counts() == counts).then_some(())
        });
    }
}

#[test]
fn nothing_is_kept_without_a_cache() {
    let remote = remote();
    let server = serve(&remote, "UpstreamCache = 0\n");
    for _ in 0..5 {
        for (digest, counts) in pair().iter().zip([(7, 2), (0, 0)]) {
            assert_eq!(server.request("check", &[digest]).counts(), counts);
        }
    }
    assert_eq!(remote.received(), 10);
    assert_eq!(server.home().opinions_held(0, 0).count("asked"), 10);
}

#[test]
fn full_cache_drops_misses_before_found_digests() {
    let remote = remote();
    let server = serve(&remote, "UpstreamCache = 10\n");
    let check = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            assert_eq!(server.request("check", &[&digest(number)]).code(), 200);
        }
    };
    check(1001..1006);
    check(1..50);
    server.home().opinions_held(10, 0);
    let before = remote.received();
    assert_eq!(before, 54);
    check(1001..1006);
    assert_eq!(remote.received(), before);
    // The last of the misses is there, and the first of them is not.
    check(49..50);
    assert_eq!(remote.received(), before);
    check(1..2);
    assert_eq!(remote.received(), before + 1);
    // More found digests than there is room for.
    check(2001..2031);
    server.home().opinions_held(10, 0);
    let before = remote.received();
    check(2030..2031);
    assert_eq!(remote.received(), before);
}

#[test]
fn count_of_this_server_ends_the_use_of_an_answer() {
    let remote = Remote::counting(7, 2);
    let server = serve(&remote, "");
    for (number, operation, counts) in [(1, "report", (1, 0)), (2, "whitelist", (0, 1))] {
        let digest = digest(number);
        assert_eq!(server.request("check", &[&digest]).counts(), (7, 2));
        assert_eq!(server.request(operation, &[&digest]).code(), 200);
        assert_eq!(server.request("check", &[&digest]).counts(), counts);
    }
    assert_eq!(remote.received(), 2);
}

/// A check that waits was first: it gets the answer to its question. Later ones get the new count.
#[test]
fn report_while_a_check_waits_counts_for_later_checks() {
    let remote = Remote::holding(7, 2);
    let server = serve(&remote, "");
    let socket = server.socket();
    socket.send(format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 2000\n\n").as_bytes()).unwrap();
    remote.receives(1);
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
    remote.release();
    let mut reply = [0; 1024];
    let length = socket.recv(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
    assert_eq!(reply, super::found(2000, (7, 2)));
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
}

#[test]
fn database_never_has_an_answer() {
    let remote = Remote::counting(7, 2);
    let server = serve(&remote, "");
    let home = server.home().clone();
    for number in 0..100 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
    }
    assert_eq!(server.request("report", &[&digest(7)]).code(), 200);
    assert!(server.stop().success());
    let records = home.database().list().unwrap();
    assert_eq!(records.keys().collect::<Vec<_>>(), [&digest(7)]);
    assert_eq!(home.stored(), [(digest(7), 1)].into());
}
