//! Storms of signals: a hundred USR1 and a hundred HUP per second under load, while the reloaded files are rewritten
//! and the logs rotated.
//!
//! `make storms` does this for a minute and prints the results. `PYZORD_STORM_SECONDS` sets the time.

use std::fs;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{
    Account, Caller, Home, Ledger, PATIENCE, Process, Reply, Server, StopFlag, ask_on, digest, eventually,
    unix_time,
};

/// The time between two signals; USR1 and HUP alternate.
const BETWEEN: Duration = Duration::from_millis(5);
/// The number of anonymous callers. One more caller signs its requests.
const CALLERS: u32 = 2;
/// The number of accounts: loading them takes a noticeable time.
const MANY: u32 = 30_000;
const LOGS: [&str; 2] = ["pyzord.log", "usage.log"];

/// A method of rewriting files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewriting {
    /// A new file replaces the old one atomically.
    ByRename,
    /// The file is truncated and written, so that a reload may read an empty or partial file.
    InPlace,
}

/// The account that exists only in this version of the files.
fn account(version: u32) -> Account {
    Account::new(&format!("version{version}"))
}

impl Rewriting {
    fn write(self, home: &Home, version: u32) {
        let new = account(version);
        let passwd = format!("{}{}", Account::new("bob").passwd(), new.passwd());
        let access = format!("all : anonymous : allow\nall : bob : allow\nall : {} : allow\n", new.name());
        for (name, content) in [("pyzord.passwd", passwd), ("pyzord.access", access)] {
            match self {
                Self::ByRename => home.rewrite(name, content),
                Self::InPlace => fs::write(home.path(name), content).unwrap(),
            }
        }
    }

    /// Whether a reply may have this code.
    fn allows(self, code: i64) -> bool {
        code == 200 || self == Self::InPlace && [401, 403].contains(&code)
    }
}

/// The results of all callers.
#[derive(Default)]
struct Seen {
    over: StopFlag,
    ledger: Mutex<Ledger>,
    answers: AtomicU64,
    refusals: AtomicU64,
}

impl Seen {
    /// Records reports until `over` is set. `ask` reports a digest and returns the reply.
    fn report(&self, how: Rewriting, first: u32, mut ask: impl FnMut(&str) -> Reply) {
        let mut ledger = Ledger::default();
        for number in 0.. {
            if self.over.is_set() {
                break;
            }
            let digest = digest(first + number % 50);
            let reply = ask(&digest);
            assert!(how.allows(reply.code()), "{}", reply.0.escape_ascii());
            ledger.enter(&digest, Some(&reply));
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.refusals.fetch_add(u64::from(reply.code() != 200), Ordering::Relaxed);
        }
        self.ledger.lock().unwrap().add(ledger);
    }
}

/// Returns a report signed by an account.
fn signed(account: &Account, digest: &str) -> Vec<u8> {
    let headers = format!("Op: report\nOp-Digest: {digest}\nThread: 3000\nPV: 2.1\n");
    account.sign(&headers, unix_time())
}

fn socket(home: &Home) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", home.port())).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Returns the numbers of descriptors and threads of a process.
fn resources(daemon: Process) -> (usize, usize) {
    (daemon.descriptors().len(), fs::read_dir(daemon.proc("task")).unwrap().count())
}

/// Sends signals for `time` or until `over` is set. Returns their number.
fn signal(daemon: Process, seen: &Seen, time: Duration) -> u32 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time && !seen.over.is_set() {
        daemon.signal(if count % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
        count += 1;
        // On a fixed schedule, even if this thread is sometimes late.
        thread::sleep((start + BETWEEN * count).saturating_duration_since(Instant::now()));
    }
    count
}

/// Renames the logs until `done` is set. Returns the number of rotations.
fn rotate(home: &Home, done: &AtomicBool) -> u32 {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        count += 1;
        for name in LOGS {
            // Fails if the server has not created it again, which it does on HUP.
            let _ = fs::rename(home.path(name), home.path(format!("{name}.{count:06}")));
        }
        thread::sleep(Duration::from_millis(30));
    }
    count
}

/// Returns all lines of a log and its rotated files, and checks that each line is complete.
fn lines(home: &Home, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(home.directory()).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with(name) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{}: {text:?}", path.display());
        all.extend(text.lines().map(str::to_owned));
    }
    for line in &all {
        // 2026-01-02 03:04:05,678 (910) INFO text
        let shape: String =
            line.chars().take(23).map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
        let (number, rest) = line.get(25..).and_then(|rest| rest.split_once(") ")).unwrap_or_default();
        let is_whole = shape == "0000-00-00 00:00:00,000"
            && number.parse::<u32>().is_ok()
            && ["INFO ", "WARNING ", "ERROR "].iter().any(|level| rest.starts_with(level));
        assert!(is_whole, "{name}: {line:?}");
    }
    all
}

fn storm(how: Rewriting) {
    let seconds = std::env::var("PYZORD_STORM_SECONDS").map_or(3, |text| text.parse().unwrap());
    let home = Home::new();
    how.write(&home, 0);
    for name in ["pyzord.passwd", "pyzord.access"] {
        // Sets the mode for files with keys, which rewriting in place keeps.
        let content = home.read(name);
        home.rewrite(name, content);
    }
    let mut server = Server::start(&home, home.command());
    let daemon = server.process();
    server.serves(&mut home.caller());
    let seen = Seen::default();
    let rotated = AtomicBool::new(false);
    let version = Mutex::new(0);
    let (mut signals, mut rotations, mut before) = (0, 0, (0, 0));
    thread::scope(|scope| {
        let _guard = seen.over.set_on_drop();
        for caller in 0..CALLERS {
            let (home, seen) = (&home, &seen);
            scope.spawn(move || {
                let mut asker = Caller::to(home.port());
                let ask =
                    |digest: &str| asker.ask("report", &[digest], PATIENCE).expect("a report got no reply");
                seen.report(how, 1000 * caller, ask);
            });
        }
        scope.spawn(|| {
            let (bob, socket) = (Account::new("bob"), socket(&home));
            seen.report(how, 1000 * CALLERS, |digest| Reply(ask_on(&socket, signed(&bob, digest))));
        });
        // Resources that a first reload allocates permanently exist after this.
        signal(daemon, &seen, Duration::from_millis(300));
        before = resources(daemon);
        let rotating = scope.spawn(|| rotate(&home, &rotated));
        let rewriting = scope.spawn(|| {
            while !rotated.load(Ordering::Relaxed) {
                let mut version = version.lock().unwrap();
                *version += 1;
                how.write(&home, *version);
                drop(version);
                thread::sleep(Duration::from_millis(3));
            }
        });
        signals = signal(daemon, &seen, Duration::from_secs(seconds));
        rotated.store(true, Ordering::Relaxed);
        rotations = rotating.join().unwrap();
        rewriting.join().unwrap();
        let socket = socket(&home);
        let code = |version| Reply(ask_on(&socket, signed(&account(version), &digest(9999)))).code();
        // Two signals at once: both must take effect.
        daemon.signal(Signal::SIGHUP);
        daemon.signal(Signal::SIGUSR1);
        let last = *version.lock().unwrap();
        let asked = Instant::now();
        eventually("the last files to take effect", || (code(last) == 200).then_some(()));
        seen.ledger.lock().unwrap().acknowledge(&digest(9999));
        println!("{last} versions; the last took effect after {} ms", asked.elapsed().as_millis());
        assert_eq!(code(last - 1), 401);
    });
    let after = eventually("descriptors and threads as before", || {
        let after = resources(daemon);
        (after.0 <= before.0 && after.1 <= before.1).then_some(after)
    });
    daemon.signal(Signal::SIGTERM);
    assert!(server.ended().success());

    let ledger = seen.ledger.into_inner().unwrap();
    ledger.compare(&home.stored());
    let (operator, usage) = (lines(&home, LOGS[0]), lines(&home, LOGS[1]));
    let count = |text: &str| operator.iter().filter(|line| line.contains(text)).count();
    let reloads = count("have been reloaded");
    let reports = usage.iter().filter(|line| line.contains(",report,")).count();
    println!(
        "{signals} signals in {seconds} s, {reloads} reloads, {rotations} rotations; {} reports answered, {} of them \
         refused, {} acknowledged; descriptors {} to {}, threads {} to {}; {} lines in the log, {} in the usage log",
        seen.answers.load(Ordering::Relaxed),
        seen.refusals.load(Ordering::Relaxed),
        ledger.acknowledged(),
        before.0,
        after.0,
        before.1,
        after.1,
        operator.len(),
        usage.len(),
    );
    assert!(reloads > 10, "{reloads} reloads");
    assert!(rotations > 1);
    assert!(home.log().contains("Server shutdown."), "the last line is missing in the new log");
    // If the disk is too slow, whole lines are dropped and reported.
    let dropped: i64 = operator
        .iter()
        .filter_map(|line| {
            line.strip_suffix(" lines dropped in total")?.rsplit(' ').next()?.parse::<i64>().ok()
        })
        .sum();
    let least = ledger.acknowledged() - dropped;
    let reports = i64::try_from(reports).unwrap();
    assert!(
        (least..=ledger.acknowledged()).contains(&reports),
        "{reports} reports logged, {dropped} lines dropped"
    );
}

#[test]
fn storm_of_reloads_refuses_no_request_while_files_are_replaced() {
    storm(Rewriting::ByRename);
}

#[test]
fn storm_of_reloads_answers_every_request_while_files_are_written_in_place() {
    storm(Rewriting::InPlace);
}

#[test]
fn signal_during_a_reload_causes_another_reload() {
    let home = Home::new();
    Rewriting::ByRename.write(&home, 0);
    let mut server = Server::start(&home, home.command());
    let daemon = server.process();
    server.serves(&mut home.caller());
    let socket = socket(&home);
    let code = |version| Reply(ask_on(&socket, signed(&account(version), &digest(0)))).code();
    let received = || home.log().matches("SIGUSR1 received").count();
    // Loading this many accounts takes a while.
    let filler: String = (0..MANY).map(|number| format!("user{number} : {number:040x}\n")).collect();
    for version in 1..=10 {
        let before = received();
        home.rewrite("pyzord.passwd", &filler);
        daemon.signal(Signal::SIGUSR1);
        eventually("the first signal", || (received() > before).then_some(()));
        Rewriting::ByRename.write(&home, version);
        daemon.signal(Signal::SIGUSR1);
        eventually("the last files to take effect", || (code(version) == 200).then_some(()));
        assert_eq!(code(version - 1), 401);
    }
    daemon.signal(Signal::SIGTERM);
    assert!(server.ended().success());
}
