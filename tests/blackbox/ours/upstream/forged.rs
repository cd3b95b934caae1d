//! Answers that are wrong or forged, and what makes forging hard.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{Answer, DIGEST, Datagram, Remote, counting, digest, eventually};
use crate::ours::upstream::{HASTY, PATIENT, asking};

/// Returns the reply with another `Thread`.
fn with_thread(reply: &[u8], thread: &str) -> Vec<u8> {
    let text = String::from_utf8(reply.to_vec()).unwrap();
    let line = |line: &str| match line.split_once(": ") {
        Some(("Thread", _)) => format!("Thread: {thread}\n"),
        _ => format!("{line}\n"),
    };
    text.strip_suffix('\n').unwrap().split('\n').map(line).collect::<String>().into_bytes()
}

/// Expects that replies by this script answer nothing, that so many of them are counted as unmatched, and that the
/// server goes on.
#[track_caller]
fn expect_unused(unmatched: u64, script: impl FnMut(&Datagram) -> Answer + Send + 'static) {
    let remote = Remote::start(script);
    let home = asking(&remote, HASTY);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    let opinions = home.opinions_with("the outcome", |it| it.count("unanswered") == 1);
    let counts = ["answered", "silent", "unmatched"].map(|name| opinions.count_of(&remote.name(), name));
    assert_eq!(counts, [0, 1, unmatched], "{opinions:?}");
    remote.follow(|datagram| counting(datagram, (7, 2)));
    assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 2));
}

#[test]
fn answer_with_another_thread_is_not_used() {
    let next = |datagram: &Datagram| {
        let thread: u32 = datagram.header("Thread").unwrap().parse().unwrap();
        if thread == 65_535 { 1024 } else { thread + 1 }
    };
    expect_unused(1, move |it| Answer::Reply(with_thread(&it.counted((7, 2)), &next(it).to_string())));
    for thread in ["0", "", "-1", "99999999999999999999", "x"] {
        expect_unused(1, move |it| Answer::Reply(with_thread(&it.counted((7, 2)), thread)));
    }
}

#[test]
fn datagrams_that_are_no_replies_are_not_used() {
    for reply in [&b""[..], b"\n", b"\xff\xfe\0\0nonsense", b"Count: 5\nWL-Count: 5\n\n"] {
        expect_unused(1, move |_| Answer::Reply(reply.to_vec()));
    }
}

/// The question itself comes back.
#[test]
fn echo_is_no_answer() {
    let remote = Remote::start(|datagram| Answer::Reply(datagram.bytes.clone()));
    let home = asking(&remote, HASTY);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    let opinions = home.opinions();
    assert_eq!((opinions.count("unanswered"), opinions.count_of(&remote.name(), "answered")), (1, 0));
}

/// The right answer, from another port and from another address. The kernel drops it: the socket is connected.
#[test]
fn answers_from_elsewhere_do_not_arrive() {
    for address in ["127.0.0.1:0", "127.0.0.2:0"] {
        let stranger = UdpSocket::bind(address).unwrap();
        expect_unused(0, move |datagram| {
            // The system refuses it if the other end is connected.
            let _ = stranger.send_to(&datagram.counted((9, 9)), datagram.from);
            Answer::Silence
        });
    }
}

/// From another address with the port of the server.
#[test]
fn answers_from_the_same_port_of_another_address_do_not_arrive() {
    let remote = Remote::silent();
    let stranger = UdpSocket::bind(("127.0.0.2", remote.port())).unwrap();
    remote.follow(move |datagram| {
        let _ = stranger.send_to(&datagram.counted((9, 9)), datagram.from);
        Answer::Silence
    });
    let home = asking(&remote, HASTY);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!(home.opinions().count_of(&remote.name(), "unmatched"), 0);
}

#[test]
fn second_answer_changes_nothing() {
    let remote = Remote::start(|datagram| {
        Answer::Replies(vec![datagram.counted((7, 2)), datagram.counted((9, 9)), datagram.counted((0, 0))])
    });
    let home = asking(&remote, PATIENT);
    let server = home.start();
    for _ in 0..3 {
        assert_eq!(server.request("check", &[DIGEST]).counts(), (7, 2));
    }
    let opinions =
        home.opinions_with("the other answers", |it| it.count_of(&remote.name(), "unmatched") == 2);
    assert_eq!(["answered", "sent"].map(|name| opinions.count_of(&remote.name(), name)), [1, 1]);
}

/// The answer to an earlier question, from the right server.
#[test]
fn answer_to_another_question_is_not_used() {
    let mut earlier = None;
    let remote = Remote::start(move |datagram| {
        let own = datagram.counted((7, 2));
        match &earlier {
            None => Answer::Reply(earlier.insert(own).clone()),
            Some(earlier) => Answer::Replies(vec![with_thread(earlier, "1023"), earlier.clone(), own]),
        }
    });
    let home = asking(&remote, PATIENT);
    let server = home.start();
    for number in 0..20 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
    }
    home.opinions_with("the other answers", |it| it.count_of(&remote.name(), "unmatched") == 38);
}

/// It arrives after the timeout.
#[test]
fn late_answer_is_not_used() {
    let remote = Remote::start(|datagram| match datagram.operation() {
        "ping" => Answer::Silence,
        _ => Answer::Later(Duration::from_millis(1500), datagram.counted((7, 2))),
    });
    let home = asking(&remote, HASTY);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    let opinions = home.opinions_with("the late answer", |it| it.count_of(&remote.name(), "unmatched") == 1);
    assert_eq!(opinions.count_of(&remote.name(), "answered"), 0, "{opinions:?}");
    assert_eq!(opinions.count("found"), 0, "{opinions:?}");
    remote.follow(|datagram| counting(datagram, (1, 1)));
    eventually("an answer in time", || (server.request("check", &[DIGEST]).counts() == (1, 1)).then_some(()));
}

/// An attacker who can forge the server's address, and whose guesses come before the answer.
#[test]
fn wrong_guesses_do_not_hide_the_answer() {
    let remote = Remote::start(|datagram| {
        let own: u32 = datagram.header("Thread").unwrap().parse().unwrap();
        let guesses = (1024..65_536).step_by(641).filter(|thread| *thread != own);
        let forged = datagram.counted((9, 9));
        let mut replies: Vec<_> = guesses.map(|thread| with_thread(&forged, &thread.to_string())).collect();
        replies.push(datagram.counted((7, 2)));
        Answer::Replies(replies)
    });
    let home = asking(&remote, PATIENT);
    let server = home.start();
    for number in 0..20 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
    }
    let opinions = home.opinions();
    assert!(opinions.count_of(&remote.name(), "unmatched") >= 20 * 100, "{opinions:?}");
}

/// Seeded changes of true answers, ahead of these.
#[test]
fn mutated_answers_harm_nothing() {
    let mut state = 88_482_675_388_961_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let remote = Remote::start(move |datagram| {
        let answer = datagram.counted((7, 2));
        let mut mutate = || {
            let mut reply = answer.clone();
            for _ in 0..=random(4) {
                let (at, length) = (random(reply.len()), reply.len());
                match random(4) {
                    0 => reply[at] = u8::try_from(random(256)).unwrap(),
                    1 => reply.insert(at, b"0123456789-:\n "[random(14)]),
                    2 => reply.truncate(at.max(1)),
                    _ => reply.swap(at, random(length)),
                }
            }
            reply
        };
        let mut replies: Vec<_> = (0..8).map(|_| mutate()).collect();
        replies.push(datagram.counted((7, 2)));
        Answer::Replies(replies)
    });
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 100000\n"));
    let mut server = home.start();
    for number in 0..2000 {
        let (reports, whitelistings) = server.request("check", &[&digest(number)]).counts();
        assert!(reports >= 0 && whitelistings >= 0);
    }
    assert!(server.is_running());
    let opinions = home.opinions();
    assert_eq!((opinions.count("asked"), opinions.count_of(&remote.name(), "silent")), (2000, 0));
    assert!(!home.log().contains("panic"), "{}", home.log());
}
