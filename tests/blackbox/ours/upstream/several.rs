//! Several servers to ask: all at once, and the largest counts of those that answer in time.

use std::time::{Duration, Instant};

use crate::harness::{Answer, DIGEST, Home, Remote, Server, digest};
use crate::ours::upstream::{PATIENT, found};

fn serve(remotes: &[&Remote], settings: &str) -> Server {
    let names: Vec<String> = remotes.iter().map(|remote| remote.name()).collect();
    Home::open().config(settings).asking(&names).start()
}

#[test]
fn largest_counts_of_all_servers_are_the_answer() {
    for (counts, largest) in [
        ([(7, 1), (3, 5)], (7, 5)),
        ([(0, 0), (0, 1)], (0, 1)),
        ([(0, 0), (0, 0)], (0, 0)),
        ([(2, 2), (1, 1)], (2, 2)),
        ([(-5, 3), (0, -1)], (0, 3)),
        ([(i64::MAX, 1), (1, 0)], (i64::MAX, 1)),
    ] {
        let remotes = counts.map(|(reports, whitelistings)| Remote::counting(reports, whitelistings));
        let server = serve(&remotes.each_ref(), PATIENT);
        let request = format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n");
        server.expect(&request, found(3000, largest));
        for remote in &remotes {
            assert_eq!(remote.counts("check"), [(DIGEST.to_owned(), 1)].into());
        }
    }
}

/// The lower bound of the time shows that the silent one was waited for.
#[test]
fn answers_in_time_count_if_another_server_is_silent() {
    let (good, silent) = (Remote::counting(7, 1), Remote::silent());
    for remotes in [[&good, &silent], [&silent, &good]] {
        let server = serve(&remotes, "UpstreamTimeout = 3\n");
        let start = Instant::now();
        assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 1));
        assert!(start.elapsed() >= Duration::from_millis(2900), "{:?}", start.elapsed());
        let opinions = server.home().opinions();
        assert_eq!((opinions.count("found"), opinions.count("unanswered")), (1, 0));
        assert_eq!(opinions.count_of(&silent.name(), "silent"), 1);
        assert_eq!(opinions.count_of(&good.name(), "answered"), 1);
    }
}

#[test]
fn check_gets_the_plain_miss_when_all_servers_were_silent() {
    let silent = [Remote::silent(), Remote::silent()];
    let server = serve(&silent.each_ref(), "UpstreamTimeout = 1\n");
    let start = Instant::now();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let opinions = server.home().opinions();
    assert_eq!(["found", "not_found", "unanswered"].map(|name| opinions.count(name)), [0, 0, 1]);
    // No answer is not the answer that there is no count.
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!(silent[0].received(), 2);
}

/// The counters show that no timeout ended.
#[test]
fn check_gets_the_plain_miss_at_once_when_all_servers_refuse() {
    for codes in [[403, 403], [401, 500], [500, 400]] {
        let remotes = codes.map(Remote::refusing);
        let server = serve(&remotes.each_ref(), PATIENT);
        for number in 0..5 {
            assert_eq!(server.request("check", &[&digest(number)]).counts(), (0, 0));
        }
        let opinions = server.home().opinions();
        assert_eq!(["asked", "unanswered", "not_found"].map(|name| opinions.count(name)), [5, 5, 0]);
        for (remote, code) in remotes.iter().zip(codes) {
            assert_eq!(opinions.refused(&remote.name(), code), 5, "{opinions:?}");
            assert_eq!(opinions.count_of(&remote.name(), "silent"), 0);
        }
    }
}

#[test]
fn refusal_does_not_hide_the_answer_of_another_server() {
    let (good, refusing) = (Remote::counting(7, 1), Remote::refusing(403));
    for remotes in [[&good, &refusing], [&refusing, &good]] {
        let server = serve(&remotes, PATIENT);
        assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 1));
    }
}

/// Each has what it should not have: no counts, half of them, or a body.
#[test]
fn replies_without_counts_are_no_answers() {
    let texts: [&str; 7] = [
        "",
        "Count: 5\n",
        "WL-Count: 5\n",
        "Count: five\nWL-Count: 1\n",
        "Count: 5\nWL-Count: 1.5\n",
        "Count:\nWL-Count:\n",
        "\nCount: 5\nWL-Count: 1\n",
    ];
    for text in texts {
        let remote = Remote::start(move |datagram| {
            let mut reply = datagram.reply(200);
            reply.pop();
            reply.extend_from_slice(text.as_bytes());
            Answer::Reply(reply)
        });
        let server = serve(&[&remote], PATIENT);
        assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0), "{text}");
        let opinions = server.home().opinions();
        let counts = ["found", "not_found", "unanswered"].map(|name| opinions.count(name));
        assert_eq!(counts, [0, 0, 1], "{text}: {opinions:?}");
        assert_eq!(opinions.count_of(&remote.name(), "answered"), 0, "{opinions:?}");
    }
}
