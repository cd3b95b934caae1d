//! Load on a server in the test, which records every request and misbehaves as required.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{COUNTS, Outcome, Recorder, header, measured, program, said};
use crate::harness::{Account, eventually, unix_time};

#[test]
fn every_request_is_unique_and_formatted_like_the_python_client() {
    let alice = Account::new("alice");
    let began = unix_time();
    let recorder = Recorder::start((), |(), _, replies| replies.now());
    let arguments = format!(
        "--timeout 60 --user alice --key {} --mix ping=1,pong=1,check=1,info=1,report=1,whitelist=1 --digests 5 --preload",
        alice.key()
    );
    // The second run makes the same choices.
    for _ in 0..2 {
        measured(&format!("{arguments} --count 2000 --window 32"), recorder.address).expect_all(2000);
    }
    // No more requests than the socket's buffer can hold while the recorder does not run.
    measured(&format!("{arguments} --count 200 --rate 20000"), recorder.address).expect_all(200);
    let (requests, ()) = recorder.stop();
    assert_eq!(requests.len(), 4215);
    assert_eq!(requests.iter().collect::<BTreeSet<_>>().len(), 4215);
    let threads: BTreeSet<String> = requests.iter().map(|request| header(request, "Thread")).collect();
    assert_eq!(threads.len(), 4215);
    let mut lengths: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut digests = BTreeSet::new();
    for request in &requests {
        let op = header(request, "Op");
        let time: i64 = header(request, "Time").parse().unwrap();
        assert!((began..=unix_time()).contains(&time));
        let digest = match op.as_str() {
            "ping" => String::new(),
            _ => format!("Op-Digest: {}\n", header(request, "Op-Digest")),
        };
        let headers = format!("Op: {op}\n{digest}Thread: {}\nPV: 2.1\n", header(request, "Thread"));
        assert_eq!(*request, alice.sign(&headers, time), "{}", request.escape_ascii());
        digests.insert(digest);
        lengths.entry(op).or_default().insert(request.len());
    }
    // One length per operation, and all five digests (and none for ping).
    assert_eq!((lengths.len(), lengths.values().map(BTreeSet::len).sum::<usize>()), (6, 6));
    assert_eq!(digests.len(), 6);
}

#[test]
fn lost_late_doubled_and_failed_replies_are_counted_separately() {
    #[derive(Default)]
    struct Seen {
        dropped: u64,
        held: u64,
        doubled: u64,
        failed: u64,
    }
    let recorder =
        Recorder::start(Seen::default(), |seen: &mut Seen, number, mut replies| match number % 60 {
            10 => seen.dropped += 1,
            20 => {
                seen.held += 1;
                replies.after(Duration::from_millis(500));
            }
            30 => {
                seen.doubled += 1;
                replies.now();
                replies.now();
            }
            40 => {
                seen.failed += 1;
                replies.reply.splice(6..9, *b"500");
                replies.now();
            }
            _ => replies.now(),
        });
    let outcome = measured("--timeout 0.4 --duration 1.5 --warm-up 0 --window 40", recorder.address);
    let (requests, seen) = recorder.stop();
    let sent = u64::try_from(requests.len()).unwrap();
    assert!(sent > 500, "{sent}");
    assert_eq!(outcome.count("/sent"), sent);
    assert_eq!(outcome.count("/lost"), seen.dropped + seen.held);
    assert_eq!(outcome.count("/answered"), sent - seen.dropped - seen.held);
    assert_eq!(outcome.count("/succeeded"), outcome.count("/answered") - seen.failed);
    assert_eq!(*outcome.value("/failed"), serde_json::json!({"500": seen.failed}));
    // The last late replies may arrive after the program has exited.
    let late = outcome.count("/late");
    assert!((seen.held / 4..=seen.held).contains(&late) && late > 0, "{late} of {}", seen.held);
    let unknown = outcome.count("/unknown");
    assert!((seen.doubled - 1..=seen.doubled).contains(&unknown), "{unknown} of {}", seen.doubled);
    // Late replies are not matched with other requests, and lost requests have no latency.
    assert!(outcome.number("/latency/max") < 500_000.0, "{}", outcome.0);
}

#[test]
fn reply_200_without_counts_is_a_failure() {
    let recorder = Recorder::start((), |(), number, mut replies| {
        // Unchanged, without both counts, without Count, and without a number.
        let counts = ["Count: 0\nWL-Count: 0\n", "", "WL-Count: 0\n", "Count: \nWL-Count: 0\n"][number % 4];
        let text = String::from_utf8(replies.reply.clone()).unwrap();
        replies.reply = text.replace(COUNTS, counts).into_bytes();
        replies.now();
    });
    for op in ["check", "pong", "info"] {
        let outcome = measured(&format!("--count 400 --window 1 --mix {op}=1"), recorder.address);
        outcome.expect_complete();
        assert_eq!(*outcome.value("/failed"), serde_json::json!({"200_without_count": 300}), "{op}");
        assert_eq!((outcome.count("/answered"), outcome.count("/succeeded")), (400, 100), "{op}");
    }
    // Replies to these operations have no counts.
    measured("--count 400 --window 1 --mix ping=1,report=1,whitelist=1", recorder.address).expect_all(400);
    let finished = said("--count 400 --window 1", recorder.address);
    assert!(finished.stdout.contains("300 failed with code 200 without Count"), "{finished:?}");
    recorder.stop();
}

#[test]
fn window_is_always_filled_and_never_exceeded() {
    for (window, sockets) in [(7, 3), (2, 5), (1, 1)] {
        let recorder = Recorder::start((), |(), _, _| {});
        let arguments =
            format!("--window {window} --sockets {sockets} --timeout 0.9 --duration 0.4 --warm-up 0");
        let finished = said(&format!("{arguments} --json"), recorder.address);
        assert_eq!(Outcome::read(&finished).count("/lost"), window, "{finished:?}");
        let (requests, ()) = recorder.stop();
        assert_eq!(u64::try_from(requests.len()).unwrap(), window, "{sockets} sockets");
    }
}

#[test]
fn second_signal_ends_the_wait_for_replies() {
    let recorder = Recorder::start((), |(), _, _| {});
    let mut command = program("--timeout 100 --duration 600 --warm-up 0 --interval 0.01", recorder.address);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let status = eventually("the end of the program", || {
        // Repeated, because two signals at once may be delivered as one.
        kill(pid, Signal::SIGINT).unwrap();
        child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(130));
}

#[test]
fn measurement_without_replies_is_exit_code_1() {
    let recorder = Recorder::start((), |(), _, _| {});
    let start = Instant::now();
    let finished = said("--count 200 --timeout 0.2 --window 50 --json", recorder.address);
    assert!(start.elapsed() >= Duration::from_millis(800), "four windows in {:?}", start.elapsed());
    let outcome = Outcome::read(&finished);
    assert_eq!((outcome.count("/sent"), outcome.count("/lost"), outcome.count("/answered")), (200, 200, 0));
    assert!(outcome.value("/latency/p50").is_null());
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("did not answer"), "{finished:?}");
    let (requests, ()) = recorder.stop();
    assert_eq!(requests.len(), 200);
}

#[test]
fn counted_requests_without_replies_are_measured_until_the_last_is_lost() {
    let recorder = Recorder::start((), |(), _, mut replies| {
        replies.reply = b"garbage".to_vec();
        replies.now();
    });
    for pace in ["--window 64", "--rate 3000"] {
        let arguments = format!("--count 300 --timeout 0.3 {pace}");
        let finished = said(&format!("{arguments} --json"), recorder.address);
        let outcome = Outcome::read(&finished);
        assert_eq!((outcome.count("/lost"), outcome.count("/answered")), (300, 0), "{}", outcome.0);
        let seconds = outcome.number("/seconds");
        assert!(seconds >= 0.3 && outcome.number("/cpu_seconds") <= seconds * 1.5, "{}", outcome.0);
        let finished = said(&arguments, recorder.address);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let text = &finished.stdout;
        let share = text.lines().find_map(|line| line.split_once("pyzor-bench used ")).expect(text).1;
        let share: f64 = share.split(' ').next().unwrap().parse().unwrap();
        assert!(share <= 150.0, "{text}");
    }
    recorder.stop();
}

#[test]
fn requests_after_the_only_reply_belong_to_the_measurement() {
    let recorder = Recorder::start((), |(), number, replies| {
        if number == 0 {
            replies.now();
        }
    });
    let outcome = measured("--count 100 --window 50 --timeout 0.3", recorder.address);
    recorder.stop();
    assert_eq!((outcome.count("/answered"), outcome.count("/lost")), (1, 99), "{}", outcome.0);
    // The second half was sent after the first half was lost.
    let seconds = outcome.number("/seconds");
    assert!(seconds >= 0.3 && outcome.number("/throughput_per_second") <= 1.0 / 0.3, "{}", outcome.0);
}

#[test]
fn slow_replies_show_in_the_latencies() {
    let recorder = Recorder::start((), |(), number, mut replies| match number % 10 {
        0 => replies.after(Duration::from_millis(300)),
        _ => replies.now(),
    });
    let outcome = measured("--window 5 --count 200", recorder.address);
    let _ = recorder.stop();
    outcome.expect_all(200);
    let [p50, p99] = ["/latency/p50", "/latency/p99"].map(|place| outcome.number(place));
    assert!(p50 < 200_000.0 && (300_000.0..1_000_000.0).contains(&p99), "{}", outcome.0);
}
