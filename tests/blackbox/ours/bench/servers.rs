//! Load on pyzord, and on `pyzor-bench echo`.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Echo, Outcome, ended, measured, program, said};
use crate::harness::{Account, Home, Server, finish};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn address(server: &Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

/// Returns the sums of the reports and of the whitelistings in the database, and the number of records.
fn stored(home: &Home) -> (u64, u64, usize) {
    let records = home.database().read();
    let field = |at: usize| {
        let number = |value: &Vec<u8>| -> u64 {
            String::from_utf8(value.clone()).unwrap().split(',').nth(at).unwrap().parse().unwrap()
        };
        records.values().map(number).sum()
    };
    (field(1), field(4), records.len())
}

#[test]
fn database_matches_the_answered_requests() {
    let home = Home::open();
    let server = home.start();
    let outcome =
        measured("--mix report=3,whitelist=1,check=1,ping=1 --digests 50 --count 5000", address(&server));
    assert!(server.stop().success());
    outcome.expect_all(5000);
    let answered = |op: &str| outcome.count(&format!("/operations/{op}/answered"));
    assert_eq!(stored(&home), (answered("report"), answered("whitelist"), 50));
    assert_eq!(["report", "whitelist", "check", "ping"].map(answered).iter().sum::<u64>(), 5000);
    // Reports have half of the weights; six standard deviations are 212.
    assert!((2288..=2712).contains(&answered("report")), "{}", outcome.0);
}

#[test]
fn all_requests_of_an_open_loop_are_stored() {
    let home = Home::open();
    let server = home.start();
    let outcome =
        measured("--rate 2000 --mix report=1 --digests 1000 --zipf 1 --count 1000", address(&server));
    assert!(server.stop().success());
    outcome.expect_all(1000);
    let (reports, _, records) = stored(&home);
    assert_eq!(reports, 1000);
    // With a uniform distribution 632 records would be expected.
    assert!((100..500).contains(&records), "{records} records");
}

#[test]
fn preloaded_digests_are_found_and_others_are_not() {
    let home = Home::open();
    let server = home.start();
    let address = address(&server);
    let run = |more: &str| {
        let outcome = measured(&format!("--digests 300 --count 2000 --sockets 3 {more}"), address);
        outcome.expect_all(2000);
        outcome.count("/found")
    };
    assert_eq!(run(""), 0);
    assert_eq!(run("--preload --window 20"), 2000);
    assert_eq!(run("--hit-ratio 0"), 0);
    assert_eq!(run("--seed 2"), 0);
    // Six standard deviations are 117.
    assert!((383..=617).contains(&run("--hit-ratio 0.25 --zipf 0.99")));
    let infos = measured("--digests 300 --count 100 --mix info=1", address);
    infos.expect_all(100);
    assert_eq!(infos.count("/operations/info/answered"), 100);
    assert!(server.stop().success());
    assert_eq!(stored(&home), (300, 0, 300));
}

#[test]
fn signed_requests_are_accepted_and_wrongly_signed_ones_are_failures() {
    let alice = Account::new("alice");
    let home = Home::new().passwd(alice.passwd()).access("all : alice : allow\n");
    let server = home.start();
    let key = home.path("key");
    fs::write(&key, format!("{}\nmore\n", alice.key())).unwrap();
    let every =
        "--mix ping=1,pong=1,check=1,info=1,report=1,whitelist=1 --digests 100 --preload --count 3000";
    for key in [alice.key().to_owned(), format!("@{}", key.display())] {
        let outcome = measured(&format!("{every} --user alice --key {key}"), address(&server));
        outcome.expect_all(3000);
        assert_eq!(*outcome.value("/signed"), true);
    }
    let wrong = Account::with_key("alice", &"0".repeat(40));
    let outcome = measured(&format!("--count 70 --user alice --key {}", wrong.key()), address(&server));
    assert_eq!(*outcome.value("/failed"), serde_json::json!({"401": 70}));
    assert_eq!((outcome.count("/answered"), outcome.count("/succeeded")), (70, 0));
    // Other accounts may not report.
    let finished = said("--preload --digests 9 --count 1", address(&server));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{finished:?}");
    assert!(finished.stderr.contains("of 9 digests 0 were reported, 9 failed"), "{finished:?}");
    assert!(server.stop().success());
}

#[test]
fn echo_answers_everything_over_ipv4_and_ipv6() {
    for arguments in [&[][..], &["127.0.0.1:0"], &["[::1]:0"]] {
        let mut echo = Echo::start(arguments);
        let outcome = measured("--window 100 --count 20000 --mix check=2,report=1,ping=1", echo.address);
        outcome.expect_all(20_000);
        assert_eq!(*outcome.value("/target"), echo.address.to_string());
        echo.signal(Signal::SIGTERM);
        assert_eq!(ended(&mut echo.child), Some(0));
    }
}

#[test]
fn json_has_every_figure() {
    let echo = Echo::start(&[]);
    let began = jiff::Timestamp::now();
    let arguments = "--mix check=9,report=1 --duration 0.3 --warm-up 0.1 --window 10 --sockets 3 --seed 7";
    let outcome = measured(arguments, echo.address);
    let ended = jiff::Timestamp::now();
    let keys =
        |place: &str| -> Vec<String> { outcome.value(place).as_object().unwrap().keys().cloned().collect() };
    let mut expected = [
        "version",
        "started_rfc3339",
        "seed",
        "rate_per_second",
        "timeout_seconds",
        "warm_up_seconds",
        "scheduled",
        "throughput_per_second",
        "latency_us",
        "latency_histogram",
        "lag_us",
        "target",
        "loop",
        "window",
        "rate",
        "sockets",
        "mix",
        "digests",
        "zipf",
        "hit_ratio",
        "signed",
        "seconds",
        "sent",
        "answered",
        "succeeded",
        "failed",
        "lost",
        "late",
        "unknown",
        "unsent",
        "throughput",
        "latency",
        "operations",
        "found",
        "cpu_seconds",
    ];
    expected.sort_unstable();
    assert_eq!(keys(""), expected);
    let latencies = ["max", "mean", "p50", "p90", "p95", "p99", "p99_9"];
    for place in ["/latency", "/latency_us", "/operations/check/latency_us"] {
        assert_eq!(keys(place), latencies, "{place}");
    }
    assert_eq!(outcome.value("/latency"), outcome.value("/latency_us"));
    assert_eq!(keys("/operations"), ["check", "report"]);
    assert_eq!(keys("/operations/check/latency"), latencies);
    assert_eq!((outcome.value("/version").as_str(), outcome.count("/seed")), (Some(VERSION), 7));
    assert_eq!((outcome.number("/timeout_seconds"), outcome.number("/warm_up_seconds")), (2.0, 0.1));
    // The measurement begins after the warm-up and ends before the program exits.
    let started = outcome.value("/started_rfc3339").as_str().unwrap();
    let started = started.parse::<jiff::Timestamp>().unwrap();
    assert!(began + Duration::from_millis(90) <= started && started <= ended, "{began} {started} {ended}");
    assert!(outcome.value("/lag_us").is_null());
    assert_eq!(*outcome.value("/mix"), serde_json::json!({"check": 0.9, "report": 0.1}));
    assert_eq!((outcome.value("/loop").as_str(), outcome.count("/window")), (Some("closed"), 10));
    assert!(outcome.value("/rate").is_null() && outcome.value("/zipf").is_null());
    // Without the warm-up.
    let seconds = outcome.number("/seconds");
    assert!((0.3..0.39).contains(&seconds), "{seconds}");
    let ordered =
        ["p50", "p90", "p95", "p99", "p99_9", "max"].map(|name| outcome.number(&format!("/latency/{name}")));
    assert!(ordered.is_sorted() && ordered[0] > 0.0, "{ordered:?}");
    let answered = outcome.count("/answered");
    outcome.expect_complete();
    // Each latency is in one range, and the ranges have no gaps.
    let ranges = outcome.value("/latency_histogram").as_array().unwrap();
    let counts = ranges.iter().map(|range| range["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), answered);
    assert!(ranges.windows(2).all(|pair| pair[0]["below_us"] == pair[1]["from_us"]), "{ranges:?}");
    let (first, last) = (&ranges[0], &ranges[ranges.len() - 1]);
    assert!(first["from_us"].as_f64().unwrap() <= ordered[0], "{ranges:?}");
    assert!(last["below_us"].as_f64().unwrap() * 1.01 >= ordered[5], "{ranges:?} {ordered:?}");
    let parts = outcome.count("/operations/check/answered") + outcome.count("/operations/report/answered");
    assert_eq!((outcome.count("/sent"), parts), (answered, answered));
    // Replies that arrived during the measurement may be to requests before it, up to a window of them.
    let arrived = outcome.number("/throughput") * seconds;
    assert!((arrived - answered as f64).abs() <= 10.5, "{arrived} {answered}");
    assert!(outcome.number("/cpu_seconds") > 0.0);
}

#[test]
fn text_has_the_main_figures() {
    let echo = Echo::start(&[]);
    let finished =
        said("--mix check=3,ping=1 --duration 0.5 --warm-up 0 --interval 0.1 --window 8", echo.address);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let text = &finished.stdout;
    for expected in
        ["ping 25 %, check 75 %", "8 requests outstanding", "replies a second", "answered", "p99.9"]
    {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    for row in ["ping  ", "check ", "all   "] {
        assert!(text.lines().any(|line| line.starts_with(row)), "no {row:?} in {text}");
    }
    // The widest bar of the histogram.
    assert!(text.contains(&format!(" % {}\n", "#".repeat(50))), "{text}");
    assert!(text.lines().next_back().unwrap().contains("a processor") || text.contains("was busy"), "{text}");
    assert!(!text.contains("lost"), "{text}");
    let progress = finished.stderr.lines().filter(|line| line.contains("replies/s")).count();
    assert!((3..=5).contains(&progress), "{}", finished.stderr);
}

#[test]
fn interrupted_measurement_is_printed() {
    let echo = Echo::start(&[]);
    for (signal, pace) in [(Signal::SIGINT, "--window 5"), (Signal::SIGTERM, "--rate 100")] {
        let start = Instant::now();
        let mut command =
            program(&format!("{pace} --duration 600 --warm-up 0 --interval 0.05 --json"), echo.address);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The measurement has begun when there are two lines of progress.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        lines.nth(1).unwrap().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(ended(&mut child), Some(0));
        let output = io::read_to_string(child.stdout.take().unwrap()).unwrap();
        let outcome = Outcome(serde_json::from_str(&output).unwrap());
        let seconds = outcome.number("/seconds");
        assert!(seconds >= 0.1 && seconds <= start.elapsed().as_secs_f64(), "{seconds}");
        assert!(outcome.count("/answered") > 0 && outcome.count("/lost") == 0, "{}", outcome.0);
    }
}

#[test]
fn rate_of_an_open_loop_is_kept() {
    let echo = Echo::start(&[]);
    let start = Instant::now();
    let outcome = measured("--rate 3000.5 --duration 1 --warm-up 0.2", echo.address);
    let taken = start.elapsed().as_secs_f64();
    // 600.1 requests in the warm-up and 3000.5 in the measurement, all sent in time.
    assert!((3000..=3001).contains(&outcome.count("/sent")), "{}", outcome.0);
    assert_eq!((outcome.value("/loop").as_str(), outcome.number("/rate")), (Some("open"), 3000.5));
    assert!(outcome.value("/window").is_null());
    let seconds = outcome.number("/seconds");
    assert!(seconds >= 1.0 && seconds <= taken - 0.2, "{seconds} of {taken}");
}

#[test]
fn latency_of_an_open_loop_starts_when_the_request_was_due() {
    let echo = Echo::start(&[]);
    let mut command = program("--rate 200 --duration 1.5 --warm-up 0 --interval 0.05 --json", echo.address);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    // Requests due meanwhile are sent late, which counts as latency.
    kill(pid, Signal::SIGSTOP).unwrap();
    thread::sleep(Duration::from_millis(500));
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(ended(&mut child), Some(0));
    let output = io::read_to_string(child.stdout.take().unwrap()).unwrap();
    let outcome = Outcome(serde_json::from_str(&output).unwrap());
    outcome.expect_all(300);
    let [p90, max] = ["/latency/p90", "/latency/max"].map(|place| outcome.number(place));
    // A third of all requests was late, evenly distributed up to half a second.
    assert!(p90 > 250_000.0 && max > 450_000.0, "{}", outcome.0);
}

#[test]
fn help_and_version_are_printed() {
    for (arguments, text) in [
        (&["--help"][..], "--hit-ratio <R>"),
        (&["-h"], "pyzor-bench echo"),
        (&["echo", "--help"], "[ADDRESS:PORT]"),
        (&["--version"], concat!("pyzor-bench ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["echo", "-V"], concat!("pyzor-bench ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let mut command = Command::new(crate::harness::generator());
        command.args(arguments);
        let finished = finish(command);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{arguments:?}: {finished:?}");
        assert!(finished.stdout.contains(text) && finished.stdout.ends_with('\n'), "{finished:?}");
    }
}

#[test]
fn misuse_is_exit_code_2() {
    let echo = Echo::start(&[]);
    for (arguments, text) in [
        ("--nosuch", "--nosuch"),
        ("--rate 10 --window 10", "--window"),
        ("--count 10 --duration 10", "--duration"),
        ("--user alice", "--key"),
        ("--key 0000000000000000000000000000000000000000", "--user"),
        ("--user alice --key 00", "40 hexadecimal digits"),
        ("--user alice --key @/nowhere/at/all", "cannot read /nowhere/at/all"),
        ("--user anonymous --key 0000000000000000000000000000000000000000", "--user"),
        ("--mix check=1,nosuch=2", "nosuch"),
        ("--mix check=1,check=2", "twice"),
        ("--mix check=0", "above 0"),
        ("--mix check=-1", "weights"),
        ("--mix check=x", "not a number"),
        ("--digests 0", "--digests"),
        ("--hit-ratio 1.1", "--hit-ratio"),
        ("--zipf -1", "-1"),
        ("--zipf nan", "--zipf"),
        ("--window 0", "--window"),
        ("--rate 0", "--rate"),
        ("--sockets 0", "--sockets"),
        ("--duration 0", "--duration"),
        ("--timeout 0", "--timeout"),
        ("--count 0", "--count"),
        ("127.0.0.1:5", "unexpected argument"),
        ("--rate-from 10 --rate-to 20", "--step"),
        ("--rate-from 10 --step 5", "--rate-to"),
        ("--rate-to 10 --step 5", "--rate-from"),
        ("--step 5", "--rate-from"),
        ("--rate-from 10 --rate-to 20 --step 5 --rate 7", "--rate <R>"),
        ("--rate-from 10 --rate-to 20 --step 5 --window 7", "--window <N>"),
        ("--rate-from 10 --rate-to 20 --step 5 --count 7", "--count <N>"),
        ("--rate-from 30 --rate-to 20 --step 5", "--rate-from 30 is above --rate-to 20"),
        ("--rate-from 10 --rate-to 20 --step 0", "--step"),
        ("--rate-from 1 --rate-to 1000 --step 1", "1000 rates, more than 100"),
        (
            "--rate-from 0.5 --rate-to 2 --step 0.5 --duration 1",
            "--rate-from 0.5: no request is due within --duration 1",
        ),
        (
            "--rate-from 0.5 --rate-to 2 --step 0.2 --duration 0.5 --warm-up 2",
            "rate 0.7 of the sweep: no request is due within --duration 0.5",
        ),
        ("--rate 0.1 --duration 2.5", "--rate 0.1: no request is due within --duration 2.5"),
    ] {
        let finished = said(arguments, echo.address);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{arguments}: {finished:?}");
        assert!(finished.stderr.contains(text), "{arguments}: {finished:?}");
    }
    for arguments in
        [&["echo", "127.0.0.1"][..], &["echo", "127.0.0.1:0", "127.0.0.1:0"], &["echo", "--json"]]
    {
        let mut command = Command::new(crate::harness::generator());
        command.args(arguments);
        let finished = finish(command);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{arguments:?}: {finished:?}");
    }
    for server in ["127.0.0.1", "127.0.0.1:0", ":24441", "127.0.0.1:x", "::1:24441", "", "echo:"] {
        let mut command = Command::new(crate::harness::generator());
        command.arg(server);
        let finished = finish(command);
        assert_eq!(finished.code, Some(2), "{server:?}: {finished:?}");
    }
}

#[test]
fn closed_port_is_reported_soon() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for arguments in [
        "--duration 600 --timeout 0.3",
        "--duration 600 --timeout 0.3 --rate 100",
        "--count 3 --timeout 0.1",
        "--preload --timeout 0.3",
    ] {
        let finished = said(arguments, free);
        assert_eq!(finished.code, Some(1), "{arguments}: {finished:?}");
        let has_reason = ["refused", "port is closed"].iter().any(|text| finished.stderr.contains(text));
        assert!(has_reason && finished.stderr.lines().count() == 1, "{arguments}: {finished:?}");
    }
    let mut command = Command::new(crate::harness::generator());
    command.arg("nosuchhost.invalid:24441");
    finish(command).expect_line(&["cannot resolve nosuchhost.invalid:24441"]);
    let echo = Echo::start(&[]);
    let mut second = Command::new(crate::harness::generator());
    second.args(["echo", &echo.address.to_string()]);
    finish(second).expect_line(&["cannot serve", "in use"]);
}
