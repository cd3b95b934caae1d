//! Faults around a server: kills, logs that cannot be written, limits, and damaged records.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, Ledger, Server, StopFlag, digest, eventually, fifo};
use crate::ours::repairs::REPAIRED;

#[test]
fn kill_in_the_middle_of_reports_loses_no_acknowledged_report() {
    kill_in_the_middle_of_reports(&Home::open(), "a file");
}

#[test]
fn kill_in_the_middle_of_reports_loses_no_acknowledged_report_behind_a_link() {
    let home = Home::open();
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let database = elsewhere.join("real.db");
    fs::write(&database, "").unwrap();
    symlink(&database, home.path("pyzord.db")).unwrap();
    kill_in_the_middle_of_reports(&home, "a link");
    assert!(fs::symlink_metadata(home.path("pyzord.db")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1, "something is left beside the real file");
}

/// Kills servers of this home in the middle of reports, `PYZORD_KILLS` times.
pub(crate) fn kill_in_the_middle_of_reports(home: &Home, what: &str) {
    const CLIENTS: u32 = 4;
    let mut ledger = Ledger::default();
    let acknowledged = AtomicI64::new(0);
    let kills = std::env::var("PYZORD_KILLS").map_or(8, |number| number.parse().unwrap());
    for round in 0..kills {
        let daemon = home.detach_after_kill();
        let over = StopFlag::default();
        // Later in every round, so that the database is in different states.
        let enough = acknowledged.load(Ordering::Relaxed) + 150 + 37 * (round % 50);
        thread::scope(|scope| {
            let guard = over.set_on_drop();
            let client = |number| {
                let (over, acknowledged) = (&over, &acknowledged);
                scope.spawn(move || report_until(home, over, acknowledged, number))
            };
            let clients: Vec<_> = (0..CLIENTS).map(client).collect();
            eventually("enough reports", || {
                assert_eq!(home.processes(), [daemon.pid()], "the daemon has exited");
                (acknowledged.load(Ordering::Relaxed) > enough).then_some(())
            });
            daemon.signal(Signal::SIGKILL);
            drop(guard);
            clients.into_iter().for_each(|client| ledger.add(client.join().unwrap()));
        });
        // The next start must succeed although the pid file of the killed server still exists.
    }
    home.detach_after_kill().stop();
    ledger.compare(&home.stored());
    assert!(ledger.acknowledged() > 150 * kills);
    let repairs = home.log().matches(REPAIRED).count();
    println!(
        "{what}: {kills} kills: {} reports acknowledged, all stored; {repairs} starts repaired the file",
        ledger.acknowledged()
    );
}

#[test]
fn file_left_longer_than_its_header_says_is_served() {
    // gdbm extends the file first and updates the header later. A kill in between, which happens with one kill in a
    // hundred under load, leaves a file that gdbm does not open before a recovery.
    let home = Home::open();
    let daemon = home.detach();
    let mut caller = home.caller();
    for number in 0..300 {
        assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let file = OpenOptions::new().write(true).open(home.path("pyzord.db")).unwrap();
    let block = 4096;
    file.set_len(file.metadata().unwrap().len() + block).unwrap();
    let daemon = home.detach();
    for number in [0, 150, 299] {
        assert_eq!(home.caller().count(&digest(number)), 1);
    }
    daemon.stop();
    assert_eq!(home.stored().len(), 300);
}

/// Reports old and new digests until `over` is set.
fn report_until(home: &Home, over: &StopFlag, acknowledged: &AtomicI64, client: u32) -> Ledger {
    let mut ledger = Ledger::default();
    let mut caller = home.caller();
    let mut number = 0;
    while !over.is_set() {
        number += 1;
        let digest = if number % 2 == 0 {
            digest(number % 20)
        } else {
            // A new digest, so that the file grows.
            let start = u32::try_from(acknowledged.load(Ordering::Relaxed)).unwrap();
            digest(1_000_000 * (client + 1) + start)
        };
        let reply = caller.ask("report", &[&digest], Duration::from_millis(300));
        ledger.enter(&digest, reply.as_ref());
        if reply.is_some() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    ledger
}

#[test]
fn log_that_always_fails_blocks_no_request() {
    let home = Home::open();
    let mut command = home.command();
    command.args(["--usage-log-file", "/dev/full"]);
    let mut server = Server::start(&home, command);
    let mut caller = home.caller();
    server.serves(&mut caller);
    for _ in 0..500 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    let log = home.log();
    assert_eq!(log.lines().filter(|line| line.contains("/dev/full")).count(), 1, "{log}");
}

#[test]
fn log_pipe_without_a_reader_blocks_no_request() {
    let home = Home::open();
    let _readers = ["main.pipe", "usage.pipe"].map(|name| fifo(&home.path(name)));
    let mut command = home.command();
    command.args(["-d", "--log-file", "main.pipe", "--usage-log-file", "usage.pipe"]);
    let mut server = Server::start(&home, command);
    let mut caller = home.caller();
    server.serves(&mut caller);
    // A pipe holds 64 KiB.
    for _ in 0..2000 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    server.process().signal(Signal::SIGHUP);
    assert_eq!(caller.count(DIGEST), 2000);
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn standard_error_without_a_reader_blocks_no_request() {
    let home = Home::open();
    let mut command = home.command();
    command.arg("-d");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    drop(command);
    let mut caller = home.caller();
    eventually("a reply", || caller.ask("ping", &[], Duration::from_millis(100)));
    for _ in 0..2000 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM)
        .unwrap();
    let status = eventually("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[test]
fn closed_reader_of_standard_error_harms_nothing() {
    let home = Home::open();
    let mut command = home.command();
    command.arg("-d");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    drop(command);
    drop(reader);
    let mut caller = home.caller();
    eventually("a reply", || caller.ask("ping", &[], Duration::from_millis(100)));
    for _ in 0..50 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM)
        .unwrap();
    let status = eventually("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn damaged_record_fails_and_others_are_served() {
    let home = Home::open();
    let sound = format!("1,{},2020-01-01 00:00:00,2026-11-01 00:00:00,0,None,None", 7);
    home.database().write(&[(digest(1), "garbage"), (digest(2), sound.as_str())]);
    let daemon = home.detach();
    let mut caller = home.caller();
    let reply = caller.answered("check", &[&digest(1)]);
    assert_eq!(reply.header("Diag").unwrap(), "Internal Server Error: Damaged record.");
    assert_eq!(caller.answered("report", &[&digest(2), &digest(1), &digest(3)]).code(), 500);
    assert_eq!((caller.count(&digest(2)), caller.count(&digest(3))), (8, 1));
    for _ in 0..100 {
        assert_eq!(caller.answered("report", &[&digest(1)]).code(), 500);
    }
    daemon.stop();
    let log = home.log();
    let lines = log.lines().filter(|line| line.contains(&digest(1))).count();
    assert!((1..50).contains(&lines), "{log}");
    assert_eq!(home.database().record(&digest(1)), "garbage");
}

/// The address space limit is too low for the tail of the database.
#[test]
fn address_space_limit_only_makes_reports_slower() {
    let home = Home::open();
    let script = home.path("limited");
    let limited =
        format!("#!/bin/sh\nexec prlimit --as=900000000 '{}' \"$@\"\n", env!("CARGO_BIN_EXE_pyzord"));
    fs::write(&script, limited).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let server = home.clone().program(script).start();
    let digests: Vec<String> = (0..300).map(digest).collect();
    for digest in &digests {
        assert_eq!(server.request("report", &[digest]).code(), 200);
    }
    let length = fs::metadata(home.path("pyzord.db")).unwrap().len();
    assert!(length < 1 << 20, "the file has a tail: {length}");
    let database = home.database();
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(database.read().len(), digests.len());
    assert_eq!(home.log().matches("cannot map the database file").count(), 1, "{}", home.log());
}

/// The hash of the file format adds the characters of a key, each shifted by a number that repeats every 24, so it is
/// easy to make digests with equal hashes. Enough of them once stopped the server.
#[test]
fn digests_chosen_to_collide_harm_no_other_digest() {
    let server = Home::new().start();
    let chosen: Vec<String> = (0..300)
        .map(|number| {
            let mut text = *b"0123456789abcdef01234567fedcba9876543210";
            (0..16).filter(|place| number >> place & 1 == 1).for_each(|place| text.swap(place, place + 24));
            String::from_utf8(text.to_vec()).unwrap()
        })
        .collect();
    let codes: BTreeSet<i64> =
        chosen.iter().map(|digest| server.request("report", &[digest]).code()).collect();
    assert_eq!(codes, BTreeSet::from([200, 500]), "the first are stored, the last refused");
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
    assert_eq!(server.request("check", &[&chosen[0]]).counts(), (1, 0));
    assert_eq!(server.request("report", &[&chosen[0]]).code(), 200, "a stored digest is still counted");
    let metadata = fs::metadata(server.home().path("pyzord.db")).unwrap();
    let size = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(size < 12 << 20, "the file has grown to {size} bytes");
    assert_eq!(server.stop().code(), Some(0));
}
