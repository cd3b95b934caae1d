//! What makes answers hard to forge: random threads and ports.

use std::collections::BTreeSet;

use crate::harness::{DIGEST, Home, Remote, digest};
use crate::ours::upstream::{PATIENT, asking};

/// Each question has a `Thread` that the one before does not predict.
#[test]
fn threads_of_questions_are_random() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 100000\n"));
    let server = home.start();
    for number in 0..300 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
    }
    let threads: Vec<i64> =
        remote.requests().iter().map(|it| it.header("Thread").unwrap().parse().unwrap()).collect();
    let different: BTreeSet<i64> = threads.iter().copied().collect();
    // Of 300 among 64,512 about one is repeated.
    assert!(different.len() > 280, "{different:?}");
    let steps: BTreeSet<i64> = threads.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.len() > 280, "{steps:?}");
    let (least, most) = (different.first().unwrap(), different.last().unwrap());
    assert!(*least < 10_000 && *most > 56_000, "{least} {most}");
}

#[test]
fn questions_leave_from_several_ports_which_change() {
    let remote = Remote::counting(7, 2);
    let home = asking(&remote, &format!("{PATIENT}UpstreamRate = 100000\n"));
    let server = home.start();
    let ports = |numbers: std::ops::Range<u32>| -> BTreeSet<u16> {
        let before = remote.requests().len();
        for number in numbers {
            assert_eq!(server.request("check", &[&digest(number)]).counts(), (7, 2));
        }
        remote.requests()[before..].iter().map(|datagram| datagram.from.port()).collect()
    };
    let first = ports(0..100);
    assert!(first.len() > 1, "{first:?}");
    let last = ports(100..5000);
    assert!(!last.is_subset(&first), "{first:?} {last:?}");
    // The descriptors of old ones are closed.
    let open = server.process().descriptors().len();
    assert!(open < 200, "{open}");
    // Another process has other ports.
    let other: Home = asking(&remote, PATIENT);
    let other = other.start();
    let before = remote.requests().len();
    assert_eq!(other.request("check", &[DIGEST]).counts(), (7, 2));
    assert_eq!(remote.requests().len(), before + 1);
}
