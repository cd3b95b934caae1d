//! Open loops that fall behind their schedule: each request is counted in exactly one category.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Echo, Outcome, Recorder, drops, measured, program, said};

/// More requests per second than one thread can send.
const UNREACHABLE: u64 = 10_000_000;

#[test]
fn requests_beyond_the_sendable_rate_are_unsent_and_not_lost() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo = Echo::start(&[]);
    for address in [echo.address, silent.local_addr().unwrap()] {
        let arguments = format!("--rate {UNREACHABLE} --timeout 0.2 --duration 1 --warm-up 0 --json");
        let outcome = Outcome::read(&said(&arguments, address));
        outcome.expect_complete();
        assert_eq!(outcome.count("/scheduled"), UNREACHABLE);
        assert!(outcome.count("/unsent") > 0 && outcome.count("/sent") > 0, "{}", outcome.0);
        // Requests are sent late, but only up to the timeout (and the time of one system call).
        assert!(outcome.number("/lag_us/p50") > 0.0, "{}", outcome.0);
        if address == echo.address {
            assert!(outcome.count("/answered") > 0, "{}", outcome.0);
            continue;
        }
        assert_eq!((outcome.count("/lost"), outcome.count("/answered")), (outcome.count("/sent"), 0));
        // The requests sent are those in the socket's buffer and those that the kernel dropped.
        silent.set_nonblocking(true).unwrap();
        let dropped = drops(&silent);
        let held = std::iter::from_fn(|| silent.recv(&mut [0; 1024]).ok()).count() as u64;
        assert_eq!(outcome.count("/sent"), held + dropped, "{held} received, {dropped} dropped");
    }
}

/// Runs the program, suspends it for `pause` once load has begun, and returns its output.
fn stopped_for(pause: Duration, arguments: &str, server: SocketAddr) -> String {
    let mut child = program(&format!("{arguments} --warm-up 0 --interval 0.05"), server);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    thread::sleep(pause);
    kill(pid, Signal::SIGCONT).unwrap();
    let output = io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    output
}

#[test]
fn requests_that_waited_longer_than_the_timeout_are_not_sent() {
    let echo = Echo::start(&[]);
    let arguments = "--rate 200 --timeout 0.3 --duration 1.5 --json";
    let output = stopped_for(Duration::from_millis(800), arguments, echo.address);
    let outcome = Outcome(serde_json::from_str(&output).unwrap());
    outcome.expect_complete();
    assert_eq!((outcome.count("/scheduled"), outcome.count("/lost")), (300, 0), "{}", outcome.0);
    // Of the 160 requests that were due meanwhile, 60 were sent, up to 0.3 s late.
    assert!(outcome.count("/unsent") >= 90, "{}", outcome.0);
    assert!(outcome.number("/lag_us/max") > 200_000.0, "{}", outcome.0);
}

#[test]
fn requests_due_while_the_generator_was_stopped_past_its_end_are_unsent() {
    let echo = Echo::start(&[]);
    let arguments = "--rate 500 --duration 1";
    let pause = Duration::from_millis(1500);
    let output = stopped_for(pause, &format!("{arguments} --json"), echo.address);
    let outcome = Outcome(serde_json::from_str(&output).unwrap());
    outcome.expect_complete();
    assert_eq!(outcome.count("/scheduled"), 500, "{}", outcome.0);
    assert!(outcome.count("/unsent") > 0, "{}", outcome.0);
    let text = stopped_for(pause, arguments, echo.address);
    for expected in ["500 scheduled: ", " unsent\n", "could not keep up with the rate"] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
}

#[test]
fn buckets_add_up_with_a_window_with_a_count_and_after_a_signal() {
    let echo = Echo::start(&[]);
    for pace in ["--window 16", "--rate 5000"] {
        let outcome = measured(&format!("{pace} --count 1000"), echo.address);
        outcome.expect_complete();
        assert_eq!(outcome.count("/scheduled"), 1000);
    }
    let outcome = measured(&format!("--rate {UNREACHABLE} --count 3000000 --timeout 0.1"), echo.address);
    outcome.expect_complete();
    assert_eq!(outcome.count("/scheduled"), 3_000_000);
    assert!(outcome.count("/unsent") > 0, "{}", outcome.0);
    for (pace, is_kept) in
        [(format!("--rate {UNREACHABLE} --timeout 0.1"), false), ("--rate 200".to_owned(), true)]
    {
        let arguments = format!("{pace} --duration 600 --warm-up 0.1 --interval 0.05 --json");
        let mut command = program(&arguments, echo.address);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stderr.take().unwrap()).lines().nth(4).unwrap().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = io::read_to_string(child.stdout.take().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        let outcome = Outcome(serde_json::from_str(&output).unwrap());
        outcome.expect_complete();
        // Only requests due before the signal are scheduled.
        let due = outcome.number("/seconds") * outcome.number("/rate");
        assert!(outcome.count("/scheduled") as f64 <= due + 1.0, "{}", outcome.0);
        assert_eq!(outcome.count("/unsent") == 0, is_kept, "{}", outcome.0);
    }
}

#[test]
fn requests_after_the_last_reply_are_scheduled_too() {
    for answered in [0, 50] {
        let recorder = Recorder::start((), move |(), number, replies| {
            if number < answered {
                replies.now();
            }
        });
        let finished = said("--rate 500 --count 100 --timeout 0.3 --json", recorder.address);
        recorder.stop();
        assert_eq!(finished.code, Some(i32::from(answered == 0)), "{finished:?}");
        let outcome = Outcome::read(&finished);
        outcome.expect_complete();
        let counts = ["/scheduled", "/sent", "/answered"].map(|place| outcome.count(place));
        assert_eq!(counts, [100, 100, answered as u64], "{}", outcome.0);
    }
}
