//! Faults of the machine that a server survives.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{
    Account, Caller, Home, Ledger, MariaDb, Process, Redis, Server, StopFlag, digest, eventually, unix_time,
};
use crate::ours::outages::Store;

/// Reports one digest after another until stopped.
fn report_until(mut caller: Caller, over: &StopFlag, acknowledged: &AtomicU64, first: u32) -> Ledger {
    let mut ledger = Ledger::default();
    for number in first.. {
        if over.is_set() {
            return ledger;
        }
        let digest = digest(number % 50);
        let reply = caller.ask("report", &[&digest], Duration::from_secs(3));
        if reply.as_ref().is_some_and(|reply| reply.code() == 200) {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        ledger.enter_doubtful(&digest, reply.as_ref());
    }
    ledger
}

/// Runs a disturbance while two callers send reports, and returns the ledger of the callers.
pub(crate) fn under_load(home: &Home, disturb: impl FnOnce()) -> Ledger {
    let (over, acknowledged) = (StopFlag::default(), AtomicU64::new(0));
    let mut ledger = Ledger::default();
    let more = || {
        let goal = acknowledged.load(Ordering::Relaxed) + 100;
        eventually("reports", || (acknowledged.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        let callers = [1, 25].map(|first| {
            let (caller, over, acknowledged) = (home.caller(), &over, &acknowledged);
            scope.spawn(move || report_until(caller, over, acknowledged, first))
        });
        more();
        disturb();
        more();
        drop(guard);
        callers.into_iter().for_each(|caller| ledger.add(caller.join().unwrap()));
    });
    ledger
}

fn limit_descriptors(daemon: Process, limit: &str) {
    let pid = daemon.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
    assert!(status.unwrap().success());
}

#[test]
fn server_recovers_from_a_lack_of_descriptors() {
    let (old, new) = (Account::new("old"), Account::new("new"));
    let mut redis = <Redis as Store>::start();
    let home = Home::open().config(&redis.settings()).passwd(old.passwd());
    home.rewrite("pyzord.access", "all : anonymous : allow\nall : all : allow\n");
    let daemon = home.detach();
    let code = |account: &Account| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", home.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let reply =
            crate::harness::ask_on(&socket, account.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time()));
        crate::harness::Reply(reply).code()
    };
    let ledger = under_load(&home, || {
        limit_descriptors(daemon, "3");
        home.rewrite("pyzord.passwd", new.passwd());
        daemon.signal(Signal::SIGUSR1);
        let refused = "Too many open files";
        eventually("an error", || home.log().contains(refused).then_some(()));
        assert_eq!((code(&old), code(&new)), (200, 401));
        daemon.signal(Signal::SIGHUP);
        eventually("another", || (home.log().matches(refused).count() >= 2).then_some(()));
        // The database restarts while no descriptor is left.
        redis.service().kill();
        eventually("a refusal", || {
            (home.caller().answered("check", &[&digest(1)]).code() == 500).then_some(())
        });
        redis.restart();
        limit_descriptors(daemon, "1024");
        eventually("the database", || {
            (home.caller().answered("check", &[&digest(1)]).code() == 200).then_some(())
        });
        daemon.signal(Signal::SIGUSR1);
        eventually("the new account", || (code(&new) == 200).then_some(()));
        assert_eq!(code(&old), 401);
    });
    daemon.stop();
    ledger.compare(&redis.stored());
    assert!(ledger.acknowledged() > 100);
}

#[test]
fn removed_homedir_is_reported_and_the_server_goes_on() {
    let home = Home::open();
    let daemon = home.detach();
    let output = home.parent().join("moved.log");
    // The log will lose its name; this link keeps it readable.
    fs::hard_link(home.path("pyzord.log"), &output).unwrap();
    let ledger = under_load(&home, || {
        let acknowledged = || home.caller().answered("report", &[&digest(99)]).code();
        assert_eq!(acknowledged(), 200);
        fs::remove_dir_all(home.directory()).unwrap();
        assert_eq!(acknowledged(), 200);
        daemon.signal(Signal::SIGUSR1);
        eventually("a line about the accounts", || {
            fs::read_to_string(&output).unwrap().contains("no longer exists").then_some(())
        });
        daemon.signal(Signal::SIGHUP);
        eventually("a line about the log", || {
            fs::read_to_string(&output).unwrap().contains("still writing to the old file").then_some(())
        });
    });
    assert!(ledger.acknowledged() > 10);
    assert_eq!(ledger.doubtful(), 0);
    daemon.stop();
    let log = fs::read_to_string(&output).unwrap();
    assert!(log.contains("Server shutdown."), "{log}");
    assert!(log.contains("was deleted"), "the missing database is not reported: {log}");
}

/// Suspends and continues a server under load, twice, and returns the ledger of the callers.
fn stopped_and_continued(home: &Home, daemon: Process) -> Ledger {
    let pause = std::env::var("PYZORD_STOP_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    let mut caller = home.caller();
    let mut own = Ledger::default();
    let mut counts = |number| {
        // On a busy machine the store may exceed the time limit of the server, even without a stop.
        eventually("a report that counts", || {
            let reply = caller.ask("report", &[&digest(number)], Duration::from_secs(3));
            own.enter_doubtful(&digest(number), reply.as_ref());
            reply.filter(|reply| reply.code() == 200)
        });
    };
    let mut ledger = under_load(home, || {
        for _ in 0..2 {
            counts(60);
            daemon.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_secs(pause));
            daemon.signal(Signal::SIGCONT);
            counts(61);
        }
    });
    ledger.add(own);
    ledger
}

#[test]
fn server_counts_right_after_sigstop_and_sigcont() {
    let home = Home::open();
    let daemon = home.detach();
    let ledger = stopped_and_continued(&home, daemon);
    daemon.stop();
    ledger.compare(&home.stored());
    stopped_on_a_store::<Redis>();
    stopped_on_a_store::<MariaDb>();
}

fn stopped_on_a_store<S: Store>() {
    let store = S::start();
    let home = Home::open().config(&store.settings());
    let daemon = home.detach();
    let ledger = stopped_and_continued(&home, daemon);
    daemon.stop();
    ledger.compare(&store.stored());
}

/// libfaketime sets the clock of the server.
#[test]
fn clock_jump_refuses_signed_requests_only() {
    let bob = Account::new("bob");
    let home = Home::open().passwd(bob.passwd()).access("all : anonymous : allow\nall : bob : allow\n");
    let set = |offset: &str| home.rewrite("clock", format!("{offset}\n"));
    set("+0");
    let mut command = home.detached();
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(fs::exists(&library).unwrap(), "{library} is missing: run tests/setup.sh");
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", home.path("clock"));
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let daemon = home.detach_with(command);
    let signed = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", home.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let headers = "Op: ping\nThread: 3000\nPV: 2.1\n";
        crate::harness::Reply(crate::harness::ask_on(&socket, bob.sign(headers, unix_time()))).code()
    };
    assert_eq!(signed(), 200);
    let ledger = under_load(&home, || {
        for offset in ["+5h", "-7h", "+30d", "-30d"] {
            set(offset);
            assert_eq!(signed(), 401, "{offset}");
            assert_eq!(home.caller().answered("report", &[&digest(70)]).code(), 200);
            set("+0");
            assert_eq!(signed(), 200);
        }
    });
    // The last change of the record has the current time again.
    let info = home.caller().answered("info", &[&digest(70)]);
    assert_eq!(info.counts().0, 4);
    assert_eq!(home.caller().answered("report", &[&digest(70)]).code(), 200);
    let updated = home.caller().answered("info", &[&digest(70)]).times()[1];
    assert!((updated - unix_time()).abs() < 60, "{updated}");
    daemon.stop();
    let mut stored = home.stored();
    assert_eq!(stored.remove(&digest(70)), Some(5));
    ledger.compare(&stored);
    assert!(ledger.acknowledged() > 10);
}

/// Under each limit, the server has enough descriptors for a start, a reload and a log rotation, and reports missing
/// spare sockets.
#[test]
fn low_descriptor_limit_costs_spare_sockets_only() {
    for (limit, has_spares) in [(24, false), (36, false), (127, false), (128, true)] {
        let (old, new) = (Account::new("old"), Account::new("new"));
        let home = Home::open().passwd(old.passwd());
        let script = format!("ulimit -n {limit} && exec \"$@\" -a 0.0.0.0");
        let mut server = Server::start(&home, home.under(&script, false));
        server.serves(&mut home.caller());
        let warning = "opened only 0 of 16 spare sockets for replies: the descriptor limit is ";
        assert_eq!(home.log().contains(warning), !has_spares, "{limit}: {}", home.log());
        home.rewrite("pyzord.passwd", new.passwd());
        server.process().signal(Signal::SIGHUP);
        eventually("a reload", || home.log().contains("have been reloaded").then_some(()));
        assert!(!home.log().contains("Too many open files"), "{limit}: {}", home.log());
    }
}
