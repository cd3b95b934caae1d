//! Databases on servers that go away and come back, under a steady load of reports.
//!
//! `make outages` runs the same with many more outages and prints what it measured.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Caller, Home, Ledger, MariaDb, Redis, Service, digest, eventually, free_port};

/// No request should wait longer for its reply. A few may, on a machine that gives a process no turn for a while:
/// one in so many.
const LONGEST: Duration = Duration::from_secs(2);
const FEW: u64 = 50;
/// So many callers report so many digests.
const CALLERS: u32 = 4;
const DIGESTS: u32 = 100;

/// A database server that a test ill-treats.
pub(crate) trait Store: Send {
    /// One that runs and loses nothing that it has acknowledged.
    fn start() -> Self;

    /// The settings of a server that uses it.
    fn settings(&self) -> String;

    /// The process.
    fn service(&mut self) -> &mut Service;

    /// Starts it again on its data and waits until it accepts work.
    fn restart(&mut self);

    /// How often each digest has been reported.
    fn stored(&self) -> BTreeMap<String, i64>;
}

impl Store for Redis {
    fn start() -> Self {
        Self::start()
    }

    fn settings(&self) -> String {
        format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", self.port())
    }

    fn service(&mut self) -> &mut Service {
        self.service()
    }

    fn restart(&mut self) {
        self.restart();
    }

    fn stored(&self) -> BTreeMap<String, i64> {
        let prefix = "pyzord.digest_v1.";
        let keys = self.cli(&["--scan", "--pattern", &format!("{prefix}*")]);
        let count = |key: &str| match self.cli(&["hget", key, "r_count"]).trim() {
            // Whitelisted only.
            "" => 0,
            number => number.parse().unwrap(),
        };
        keys.lines().map(|key| (key.strip_prefix(prefix).unwrap().to_owned(), count(key))).collect()
    }
}

impl Store for MariaDb {
    fn start() -> Self {
        Self::start()
    }

    fn settings(&self) -> String {
        format!("Engine = mysql\nDigestDB = 127.0.0.1:{},pyzor,secret,pyzor,digests\n", self.port())
    }

    fn service(&mut self) -> &mut Service {
        self.service()
    }

    fn restart(&mut self) {
        self.restart();
    }

    fn stored(&self) -> BTreeMap<String, i64> {
        let rows = self.sql("SELECT digest, r_count FROM pyzor.digests");
        let row = |line: &str| {
            let (digest, count) = line.split_once('\t').unwrap();
            (digest.to_owned(), count.parse().unwrap())
        };
        rows.lines().map(row).collect()
    }
}

/// How a database goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// It is killed, and started again on its data.
    Kill,
    /// It hangs for a while, with its connections open.
    Hang,
}

/// What callers and observers have seen.
#[derive(Default)]
struct Seen {
    ledger: Mutex<Ledger>,
    over: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    reports: Waits,
    pings: Waits,
}

/// How long requests of one kind have waited for their replies.
#[derive(Default)]
struct Waits {
    count: AtomicU64,
    /// How many of them waited longer than they should.
    late: AtomicU64,
    longest: Mutex<Duration>,
}

impl Waits {
    fn add(&self, taken: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.late.fetch_add(u64::from(taken > LONGEST), Ordering::Relaxed);
        let mut longest = self.longest.lock().unwrap();
        *longest = (*longest).max(taken);
    }

    /// The longest of them, after asserting that hardly any was late.
    fn longest(self, what: &str) -> Duration {
        let (count, late, longest) =
            (self.count.into_inner(), self.late.into_inner(), self.longest.into_inner().unwrap());
        assert!(late * FEW <= count, "{late} of {count} {what} waited too long, up to {longest:?}");
        longest
    }
}

impl Seen {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Reports one digest after the other until it is over.
    fn report(&self, mut caller: Caller, first: u32) {
        let mut ledger = Ledger::default();
        for number in first.. {
            if self.is_over() {
                break;
            }
            let digest = digest(number % DIGESTS);
            let asked = Instant::now();
            let reply = caller.ask("report", &[&digest], LONGEST * 2);
            self.reports.add(asked.elapsed());
            ledger.enter_doubtful(&digest, reply.as_ref());
            match reply.map(|reply| reply.code()) {
                Some(200) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
                // As a client does, who has other mails to look at.
                _ => {
                    thread::sleep(Duration::from_millis(1));
                    self.refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        self.ledger.lock().unwrap().add(ledger);
    }

    fn ping(&self, mut caller: Caller) {
        while !self.is_over() {
            let asked = Instant::now();
            caller.answered("ping", &[]);
            self.pings.add(asked.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until something has happened so often more.
    fn await_more(&self, what: &str, counter: &AtomicU64, more: u64) {
        let goal = counter.load(Ordering::Relaxed) + more;
        eventually(what, || (counter.load(Ordering::Relaxed) >= goal).then_some(()));
    }
}

/// Ends the load whatever becomes of the test.
struct Ends<'a>(&'a Seen);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn outages() -> u32 {
    std::env::var("PYZORD_OUTAGES").map_or(2, |number| number.parse().unwrap())
}

fn comes_back<S: Store>(outage: Outage) {
    let mut store = S::start();
    let home = Home::open().config(&store.settings());
    let server = home.start();
    let caller = || Caller::to(server.port());
    let seen = Seen::default();
    let mut resumed = Vec::new();
    thread::scope(|scope| {
        let _ends = Ends(&seen);
        for number in 0..CALLERS {
            let (caller, seen) = (caller(), &seen);
            scope.spawn(move || seen.report(caller, number * DIGESTS / CALLERS));
        }
        let (pinger, observer) = (caller(), &seen);
        scope.spawn(move || observer.ping(pinger));
        for _ in 0..outages() {
            seen.await_more("reports that count", &seen.acknowledged, 200);
            match outage {
                Outage::Kill => store.service().kill(),
                Outage::Hang => store.service().signal(Signal::SIGSTOP),
            }
            seen.await_more("refusals", &seen.refused, 100);
            match outage {
                Outage::Kill => store.restart(),
                Outage::Hang => store.service().signal(Signal::SIGCONT),
            }
            let back = Instant::now();
            seen.await_more("reports that count again", &seen.acknowledged, 1);
            resumed.push(back.elapsed());
            // A database that goes again at once is given more time with each time.
            thread::sleep(Duration::from_millis(1200));
        }
        seen.await_more("reports that count", &seen.acknowledged, 200);
    });
    let memory = peak_memory(server.pid());
    assert!(server.stop().success());

    let ledger = seen.ledger.into_inner().unwrap();
    ledger.compare(&store.stored());
    let (longest, longest_ping) = (seen.reports.longest("reports"), seen.pings.longest("pings"));
    let log = home.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count() as u32;
    let (away, back) = (lines(" is away: "), lines(" is back after "));
    // It is lost once more where the machine gives it no turn for a second.
    assert!(away == back && (outages()..=2 * outages()).contains(&away), "{away} away, {back} back: {log}");
    resumed.sort_unstable();
    println!(
        "{} outages: {} reports acknowledged, {} refused or unanswered, {} stored; longest wait of a report {} ms, of \
         a ping {} ms; back after {} ms (median), {} ms (longest); peak memory {} MiB",
        outages(),
        ledger.acknowledged(),
        ledger.doubtful(),
        store.stored().values().sum::<i64>(),
        longest.as_millis(),
        longest_ping.as_millis(),
        resumed[resumed.len() / 2].as_millis(),
        resumed[resumed.len() - 1].as_millis(),
        memory / 1024,
    );
}

/// The largest size that a process ever had in memory, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn redis_that_is_killed_comes_back_with_every_report() {
    comes_back::<Redis>(Outage::Kill);
}

#[test]
fn redis_that_hangs_comes_back_with_every_report() {
    comes_back::<Redis>(Outage::Hang);
}

#[test]
fn mariadb_that_is_killed_comes_back_with_every_report() {
    comes_back::<MariaDb>(Outage::Kill);
}

#[test]
fn mariadb_that_hangs_comes_back_with_every_report() {
    comes_back::<MariaDb>(Outage::Hang);
}

/// The memory of a server whose database hangs while requests pour in.
fn is_bounded<S: Store>() {
    const FLOOD: u32 = 200_000;
    let mut store = S::start();
    let home = Home::open().config(&store.settings());
    let server = home.start();
    let mut caller = Caller::to(server.port());
    assert_eq!(caller.answered("report", &[&digest(1)]).code(), 200);
    let before = peak_memory(server.pid());
    store.service().signal(Signal::SIGSTOP);
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.connect(("127.0.0.1", server.port())).unwrap();
    for number in 0..FLOOD {
        let request = format!("Op: report\nOp-Digest: {}\nPV: 2.1\nThread: 2000\n\n", digest(number));
        flood.send(request.as_bytes()).unwrap();
        if number % 20_000 == 0 {
            // One may find no room among so many.
            eventually("a ping", || caller.ask("ping", &[], Duration::from_millis(100)));
        }
    }
    let grown = peak_memory(server.pid()) - before;
    store.service().signal(Signal::SIGCONT);
    eventually("the database to be back", || {
        let reply = caller.ask("report", &[&digest(1)], LONGEST)?;
        (reply.code() == 200).then_some(())
    });
    assert!(grown < 32 * 1024, "it grew by {grown} KiB");
    assert!(server.stop().success());
}

#[test]
fn a_flood_while_redis_hangs_does_not_grow_the_server() {
    is_bounded::<Redis>();
}

#[test]
fn a_flood_while_mariadb_hangs_does_not_grow_the_server() {
    is_bounded::<MariaDb>();
}

/// Starts a server whose database is not there.
fn is_waited_for(settings: &str, name: &str) {
    let home = Home::open().config(settings);
    let start = Instant::now();
    let status = home.try_start().err().expect("a server without a database");
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() >= Duration::from_secs(9), "it gave up too soon");
    let stderr = home.stderr();
    let waiting = stderr.lines().filter(|line| line.contains("waiting for ") && line.contains(name)).count();
    // One a second, if the machine gives it a turn each second.
    assert!((3..=10).contains(&waiting), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains(name) && last.contains("could not be reached within 10 seconds"), "{stderr}");
    assert!(!home.everything_said().contains("secret"));
}

#[test]
fn a_redis_that_is_not_there_at_the_start_is_waited_for() {
    let port = free_port();
    is_waited_for(&format!("Engine = redis\nDigestDB = 127.0.0.1,{port},secret,0\n"), &port.to_string());
}

#[test]
fn a_mysql_that_is_not_there_at_the_start_is_waited_for() {
    let port = free_port();
    is_waited_for(
        &format!("Engine = mysql\nDigestDB = 127.0.0.1:{port},u,secret,pyzor,d\n"),
        &port.to_string(),
    );
}

/// Starts a server before its database.
fn starts_later<S: Store>() {
    let mut store = S::start();
    let home = Home::open().config(&store.settings());
    store.service().kill();
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("a server that waits", || home.stderr().contains("waiting for ").then_some(()));
            store.restart();
        });
        let server = home.start();
        assert_eq!(Caller::to(server.port()).answered("report", &[&digest(1)]).code(), 200);
    });
}

#[test]
fn a_server_that_starts_before_its_redis_serves_in_the_end() {
    starts_later::<Redis>();
}

#[test]
fn a_server_that_starts_before_its_mariadb_serves_in_the_end() {
    starts_later::<MariaDb>();
}
