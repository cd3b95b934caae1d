//! Stops at any moment, and starts after them.

use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, Ledger, Server, StopFlag, digest, eventually};

#[test]
fn term_and_int_stop_the_server_safely() {
    for (signal, name) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGINT, "SIGINT")] {
        let home = Home::open();
        let daemon = home.detach();
        let mut caller = home.caller();
        for number in 0..100 {
            assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
        }
        daemon.signal(signal);
        daemon.ended();
        assert!(!home.path("pyzord.pid").exists());
        assert_eq!(home.stored().len(), 100);
        let log = home.log();
        // The expiry may end at any time.
        let last: Vec<&str> = log.lines().rev().filter(|line| !line.contains(" Expiry: ")).take(2).collect();
        assert!(last[1].ends_with(&format!(" INFO {name} received. Shutting down.")), "{log}");
        assert!(last[0].ends_with(" INFO Server shutdown."), "{log}");
        // The database was closed: the next start has nothing to repair.
        assert!(!home.path("pyzord.db.open").exists());
        home.detach().stop();
        let log = home.log();
        assert!(!log.contains("was not closed"), "{log}");
    }
}

#[test]
fn stop_writes_the_database_to_disk() {
    let home = Home::open();
    let mut command = home.detached();
    command.arg("-d");
    let daemon = home.detach_with_debug(command);
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.stop();
    let log = home.log();
    let stopping = log.find("SIGTERM received").unwrap();
    assert!(log[stopping..].contains(" DEBUG The database has been written to its disk."), "{log}");
}

#[test]
fn term_and_int_in_the_foreground_exit_with_success() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = Home::open();
        let mut server = Server::start(&home, home.command());
        server.serves(&mut home.caller());
        assert!(!home.path("pyzord.pid").exists(), "a pid file is for the background");
        server.process().signal(signal);
        assert_eq!(server.ended().code(), Some(0));
        assert_eq!(home.stderr(), "");
    }
}

#[test]
fn requests_received_before_a_stop_are_answered() {
    const REQUESTS: u32 = 100;
    let home = Home::open();
    let daemon = home.detach();
    let caller = home.caller();
    // While the server is stopped, requests queue in its socket.
    daemon.signal(Signal::SIGSTOP);
    for number in 0..REQUESTS {
        caller.send("report", &[&digest(number)], 2000 + number);
    }
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    for _ in 0..REQUESTS {
        let reply = caller.receive(Duration::from_secs(10)).expect("a reply to everything that had arrived");
        assert_eq!(reply.code(), 200);
    }
    daemon.ended();
    assert_eq!(home.stored().len(), 100);
}

#[test]
fn stopping_under_load_keeps_every_acknowledged_report() {
    let home = Home::open();
    for _ in 0..3 {
        let before = if home.path("pyzord.db").exists() { home.stored() } else { Default::default() };
        let daemon = home.detach();
        let over = StopFlag::default();
        let ledger = thread::scope(|scope| {
            let guard = over.set_on_drop();
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| report_until(&home, &over))).collect();
            eventually("some reports", || {
                (home.caller().count(&digest(3)) > before_count(&before, 3) + 20).then_some(())
            });
            daemon.stop();
            drop(guard);
            let mut ledger = Ledger::default();
            clients.into_iter().for_each(|client| ledger.add(client.join().unwrap()));
            ledger
        });
        let mut stored = home.stored();
        stored
            .iter_mut()
            .for_each(|(digest, count)| *count -= before.get(digest).copied().unwrap_or_default());
        assert!(ledger.acknowledged() > 20);
        ledger.compare(&stored);
    }
}

fn before_count(before: &std::collections::BTreeMap<String, i64>, number: u32) -> i64 {
    before.get(&digest(number)).copied().unwrap_or_default()
}

fn report_until(home: &Home, over: &StopFlag) -> Ledger {
    let mut ledger = Ledger::default();
    let mut caller = home.caller();
    for number in (0..7).cycle() {
        if over.is_set() {
            break;
        }
        let reply = caller.ask("report", &[&digest(number)], Duration::from_millis(300));
        ledger.enter(&digest(number), reply.as_ref());
        if reply.is_none() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    ledger
}

/// Starts a server and signals it this long after signals are blocked.
fn signalled_while_starting(signal: Signal, pause: Duration) -> (Home, Server) {
    let home = Home::open();
    let server = Server::start(&home, home.command());
    // Once the log file exists, signals are blocked. Before, the process may not have reached main yet.
    let deadline = Instant::now() + Duration::from_secs(15);
    while !home.path("pyzord.log").exists() {
        assert!(Instant::now() < deadline, "no log file");
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < pause {
        std::hint::spin_loop();
    }
    server.process().signal(signal);
    (home, server)
}

/// Returns pauses that hit every part of a start.
fn pauses() -> impl Iterator<Item = Duration> {
    (0..24).map(|step| Duration::from_micros(step * step * 15))
}

#[test]
fn stop_at_any_moment_of_the_start_is_safe() {
    for pause in pauses() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (home, mut server) = signalled_while_starting(signal, pause);
            assert_eq!(server.ended().code(), Some(0), "{signal} after {pause:?}");
            assert_eq!(home.stderr(), "");
        }
    }
}

#[test]
fn reload_at_any_moment_of_the_start_is_harmless() {
    for pause in pauses() {
        for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
            let (home, mut server) = signalled_while_starting(signal, pause);
            server.serves(&mut home.caller());
            server.process().signal(Signal::SIGTERM);
            assert_eq!(server.ended().code(), Some(0), "{signal} after {pause:?}");
        }
    }
}

/// While the server waits for the port, the database is open already, and must be closed as in any other stop.
#[test]
fn stop_while_waiting_for_the_port_closes_the_database() {
    let home = Home::open();
    let _taken = home.take_port();
    let mut server = Server::start(&home, home.command());
    eventually("the database is open", || home.path("pyzord.db.open").exists().then_some(()));
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!home.path("pyzord.db.open").exists(), "the next start would repair it");
}

#[test]
fn hup_during_the_start_reopens_the_logs() {
    let home = Home::open();
    let taken = home.take_port();
    let mut server = Server::start(&home, home.command());
    eventually("the database is open", || home.path("pyzord.db.open").exists().then_some(()));
    fs::rename(home.path("pyzord.log"), home.path("pyzord.log.1")).unwrap();
    server.process().signal(Signal::SIGHUP);
    drop(taken);
    server.serves(&mut home.caller());
    eventually("a new log", || home.path("pyzord.log").exists().then_some(()));
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn killed_server_can_be_restarted_at_once() {
    let home = Home::open();
    for (round, remove) in [(1, true), (2, false), (3, true), (4, false)] {
        let daemon = home.detach();
        let mut caller = home.caller();
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        assert_eq!(caller.count(DIGEST), round);
        // Deliberately without waiting for its end, like restart scripts.
        daemon.signal(Signal::SIGKILL);
        if remove {
            fs::remove_file(home.path("pyzord.pid")).unwrap();
        }
    }
    assert_eq!(count_after_start(&home), 4);
}

/// Starts a server and returns the count of the digest.
fn count_after_start(home: &Home) -> i64 {
    let daemon = home.detach();
    let count = home.caller().count(DIGEST);
    daemon.stop();
    count
}

#[test]
fn start_waits_for_the_stopping_server() {
    let home = Home::open();
    let mut daemon = home.detach();
    for round in 0..5 {
        assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
        daemon.signal(Signal::SIGTERM);
        let next = home.detach();
        assert_ne!(next.pid(), daemon.pid());
        daemon.ended();
        assert_eq!(
            home.read("pyzord.pid"),
            format!("{}\n", next.pid()),
            "the old one took the new pid file away"
        );
        assert_eq!(home.caller().count(DIGEST), round + 1);
        daemon = next;
    }
    daemon.stop();
}
