//! Outages of database servers under a steady load of reports.
//!
//! `make outages` runs the same tests with many more outages and prints the measurements.

mod store;

use std::fs;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Caller, Home, Ledger, MariaDb, Redis, StopFlag, digest, eventually, free_port};
pub(crate) use store::Store;

/// Time within which replies must come. One request in [`FEW`] may be later, because a busy machine may suspend
/// processes for a while.
const LONGEST: Duration = Duration::from_secs(2);
const FEW: u64 = 50;
const CALLERS: u32 = 4;
/// Number of different digests that the callers report.
const DIGESTS: u32 = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// The server is killed, and started again on its data.
    Kill,
    /// The server is suspended for a while, with its connections open.
    Hang,
}

/// The load on a server, and its results.
#[derive(Default)]
struct Load {
    ledger: Mutex<Ledger>,
    stop: StopFlag,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    reports: Waits,
    pings: Waits,
}

/// The times that requests of one kind have waited for their replies.
#[derive(Default)]
struct Waits {
    count: AtomicU64,
    /// Number of requests that waited longer than [`LONGEST`].
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

    /// Asserts that few requests were late, and returns the longest wait.
    fn longest(self, what: &str) -> Duration {
        let (count, late, longest) =
            (self.count.into_inner(), self.late.into_inner(), self.longest.into_inner().unwrap());
        assert!(late * FEW <= count, "{late} of {count} {what} waited too long, up to {longest:?}");
        longest
    }
}

impl Load {
    /// Reports one digest after the other until the load stops.
    fn report(&self, mut caller: Caller, first: u32) {
        let mut ledger = Ledger::default();
        for number in first.. {
            if self.stop.is_set() {
                break;
            }
            let digest = digest(number % DIGESTS);
            let asked = Instant::now();
            let reply = caller.ask("report", &[&digest], LONGEST * 2);
            self.reports.add(asked.elapsed());
            ledger.enter_doubtful(&digest, reply.as_ref());
            match reply.map(|reply| reply.code()) {
                Some(200) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
                // Clients do not retry at once.
                _ => {
                    thread::sleep(Duration::from_millis(1));
                    self.refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        self.ledger.lock().unwrap().add(ledger);
    }

    fn ping(&self, mut caller: Caller) {
        while !self.stop.is_set() {
            let asked = Instant::now();
            caller.answered("ping", &[]);
            self.pings.add(asked.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a counter has grown by `more`.
    fn await_more(&self, what: &str, counter: &AtomicU64, more: u64) {
        let goal = counter.load(Ordering::Relaxed) + more;
        eventually(what, || (counter.load(Ordering::Relaxed) >= goal).then_some(()));
    }
}

fn outages() -> u32 {
    std::env::var("PYZORD_OUTAGES").map_or(2, |number| number.parse().unwrap())
}

/// Interrupts a store under load several times, and checks that no acknowledged report is lost.
fn survive_outages<S: Store>(outage: Outage) {
    let mut store = S::start();
    let home = Home::open().config(&store.settings());
    let server = home.start();
    let caller = || Caller::to(server.port());
    let load = Load::default();
    let mut resumed = Vec::new();
    thread::scope(|scope| {
        let _guard = load.stop.set_on_drop();
        for number in 0..CALLERS {
            let (caller, load) = (caller(), &load);
            scope.spawn(move || load.report(caller, number * DIGESTS / CALLERS));
        }
        let (pinger, observed) = (caller(), &load);
        scope.spawn(move || observed.ping(pinger));
        for _ in 0..outages() {
            load.await_more("acknowledged reports", &load.acknowledged, 200);
            match outage {
                Outage::Kill => store.service().kill(),
                Outage::Hang => store.service().signal(Signal::SIGSTOP),
            }
            load.await_more("refused reports", &load.refused, 100);
            match outage {
                Outage::Kill => store.restart(),
                Outage::Hang => store.service().signal(Signal::SIGCONT),
            }
            let back = Instant::now();
            load.await_more("an acknowledged report after the outage", &load.acknowledged, 1);
            resumed.push(back.elapsed());
            // The pause before a retry grows if a store is lost again within a second.
            thread::sleep(Duration::from_millis(1200));
        }
        load.await_more("acknowledged reports", &load.acknowledged, 200);
    });
    let memory = peak_memory(server.pid());
    assert!(server.stop().success());

    let ledger = load.ledger.into_inner().unwrap();
    ledger.compare(&store.stored());
    let (longest, longest_ping) = (load.reports.longest("reports"), load.pings.longest("pings"));
    let log = home.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count() as u32;
    let (lost, back) = (lines(" is unavailable: "), lines(" is back after "));
    // A busy machine that suspends the store for a second causes a further outage.
    assert!(lost == back && (outages()..=2 * outages()).contains(&lost), "{lost} lost, {back} back: {log}");
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

/// Returns the peak resident memory of a process in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn no_acknowledged_report_is_lost_when_redis_is_killed() {
    survive_outages::<Redis>(Outage::Kill);
}

#[test]
fn no_acknowledged_report_is_lost_when_redis_hangs() {
    survive_outages::<Redis>(Outage::Hang);
}

#[test]
fn no_acknowledged_report_is_lost_when_mariadb_is_killed() {
    survive_outages::<MariaDb>(Outage::Kill);
}

#[test]
fn no_acknowledged_report_is_lost_when_mariadb_hangs() {
    survive_outages::<MariaDb>(Outage::Hang);
}

/// Sends many requests while the database hangs, and checks the server's memory.
fn check_memory_in_a_flood<S: Store>() {
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
            // The socket's receive buffer may be full.
            eventually("a ping", || caller.ask("ping", &[], Duration::from_millis(100)));
        }
    }
    let grown = peak_memory(server.pid()) - before;
    store.service().signal(Signal::SIGCONT);
    eventually("the database to be back", || {
        let reply = caller.ask("report", &[&digest(1)], LONGEST)?;
        (reply.code() == 200).then_some(())
    });
    assert!(grown < 32 * 1024, "the server grew by {grown} KiB");
    assert!(server.stop().success());
}

#[test]
fn memory_is_bounded_in_a_flood_while_redis_hangs() {
    check_memory_in_a_flood::<Redis>();
}

#[test]
fn memory_is_bounded_in_a_flood_while_mariadb_hangs() {
    check_memory_in_a_flood::<MariaDb>();
}

/// Starts a server without its database, and checks that it retries for ten seconds and then fails.
fn wait_for_missing_store(settings: &str, name: &str) {
    let home = Home::open().config(settings);
    let start = Instant::now();
    let status = home.try_start().err().expect("the server has started without a database");
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() >= Duration::from_secs(9), "it gave up too soon");
    let stderr = home.stderr();
    let waiting = stderr.lines().filter(|line| line.contains("waiting for ") && line.contains(name)).count();
    // One line a second, or fewer on a busy machine.
    assert!((3..=10).contains(&waiting), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains(name) && last.contains("could not be reached within 10 seconds"), "{stderr}");
    assert!(!home.everything_said().contains("secret"));
}

#[test]
fn start_waits_for_a_missing_redis() {
    let port = free_port();
    wait_for_missing_store(
        &format!("Engine = redis\nDigestDB = 127.0.0.1,{port},secret,0\n"),
        &port.to_string(),
    );
}

#[test]
fn start_waits_for_a_missing_mysql() {
    let port = free_port();
    wait_for_missing_store(
        &format!("Engine = mysql\nDigestDB = 127.0.0.1:{port},u,secret,pyzor,d\n"),
        &port.to_string(),
    );
}

/// Starts a server before its database.
fn start_before_store<S: Store>() {
    let mut store = S::start();
    let home = Home::open().config(&store.settings());
    store.service().kill();
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("the server to wait", || home.stderr().contains("waiting for ").then_some(()));
            store.restart();
        });
        let server = home.start();
        assert_eq!(Caller::to(server.port()).answered("report", &[&digest(1)]).code(), 200);
    });
}

#[test]
fn server_that_starts_before_its_redis_serves_later() {
    start_before_store::<Redis>();
}

#[test]
fn server_that_starts_before_its_mariadb_serves_later() {
    start_before_store::<MariaDb>();
}
