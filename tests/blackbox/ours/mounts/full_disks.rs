//! Databases and logs on a full disk.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};

use nix::sys::signal::Signal;

use super::Disk;
use crate::harness::{Caller, Home, Ledger, Server, digest, eventually};

/// Reports new digests, 100 per request, until a request is refused. Returns the next number.
fn report_until_refused(caller: &mut Caller, ledger: &mut Ledger, mut next: u32) -> u32 {
    loop {
        let digests: Vec<String> = (next..next + 100).map(digest).collect();
        next += 100;
        let names: Vec<&str> = digests.iter().map(String::as_str).collect();
        let code = caller.answered("report", &names).code();
        for name in names {
            if code == 200 {
                ledger.acknowledge(name);
            } else {
                // A refused request may have stored some of its digests.
                ledger.enter(name, None);
            }
        }
        if code == 500 {
            return next;
        }
        assert_eq!(code, 200);
        assert!(next < 1_000_000, "the disk does not fill up");
    }
}

#[test]
fn full_disk_loses_no_acknowledged_report() {
    let home = Home::open();
    let disk = Disk::new(&home, home.directory(), 16 * 1024);
    fs::copy(home.path("pyzord.access"), disk.path("pyzord.access")).unwrap();
    disk.fill("ballast", 6 * 1024);
    let log = home.parent().join("main.log");
    let mut command = home.command();
    command.arg("--log-file").arg(&log);
    let mut server = Server::start(&home, disk.inside(&home, &command));
    let mut caller = home.caller();
    server.serves(&mut caller);

    let mut ledger = Ledger::default();
    let next = report_until_refused(&mut caller, &mut ledger, 0);
    assert!(next > 1000, "only {next} digests fit");
    // Reads still work, and single reports are refused with the same text.
    for number in [0, 1, next / 2] {
        assert_eq!(caller.count(&digest(number)), 1);
    }
    let refused = caller.answered("report", &[&digest(next)]);
    assert_eq!(refused.header("Diag").unwrap(), "Internal Server Error: Database temporarily unavailable.");
    assert_eq!(caller.answered("ping", &[]).code(), 200);
    let text = eventually("a line about the disk", || {
        let text = fs::read_to_string(&log).unwrap();
        let told = text.lines().any(|line| line.contains(" ERROR ") || line.contains(" WARNING "));
        told.then_some(text)
    });
    assert!(text.lines().count() < 50, "a line for each refusal: {text}");

    // Once there is room again, the server recovers by itself, also a second time.
    fs::remove_file(disk.path("ballast")).unwrap();
    let reported = digest(next + 1);
    eventually("reports", || (caller.answered("report", &[&reported]).code() == 200).then_some(()));
    ledger.acknowledge(&reported);
    let next = report_until_refused(&mut caller, &mut ledger, next + 2);
    assert_eq!(caller.count(&digest(next / 2)), 1);

    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    fs::copy(disk.path("pyzord.db"), home.path("pyzord.db")).unwrap();
    let stored = home.stored();
    ledger.compare(&stored);
    let count = home.database().gdbmtool("count\n");
    assert!(count.contains(&stored.len().to_string()), "{count}");
}

/// Deleting can make the file grow, so that an expiry on a full disk would damage it.
#[test]
fn expiry_on_a_full_disk_stops_and_damages_nothing() {
    let home = Home::open();
    let old = "1,1,2011-11-22 10:26:46,2011-11-22 10:26:46,0,None,None";
    let records: Vec<(String, &str)> = (0..10_000).map(|number| (digest(number), old)).collect();
    home.database().write(&records);
    let database = fs::read(home.path("pyzord.db")).unwrap();
    let access = fs::read(home.path("pyzord.access")).unwrap();
    fs::remove_file(home.path("pyzord.db")).unwrap();

    let size = u32::try_from(database.len() / 1024).unwrap();
    let disk = Disk::new(&home, home.directory(), size + 1024);
    fs::write(disk.path("pyzord.access"), access).unwrap();
    fs::write(disk.path("pyzord.db"), &database).unwrap();
    let log = home.parent().join("main.log");
    let mut command = home.command();
    command.arg("--log-file").arg(&log);
    let mut server = Server::start(&home, disk.inside(&home, &command));
    let mut caller = home.caller();
    server.serves(&mut caller);
    eventually("the end of the expiry", || {
        let text = fs::read_to_string(&log).unwrap();
        text.contains(": the disk has no room, which even a deletion can need").then_some(())
    });
    for number in [0, 5000, 9999] {
        assert_eq!(caller.count(&digest(number)), 1);
    }
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    fs::copy(disk.path("pyzord.db"), home.path("pyzord.db")).unwrap();
    assert_eq!(home.stored().len(), records.len());
}

#[test]
fn kill_on_a_full_disk_loses_no_acknowledged_report() {
    let home = Home::open();
    let disk = Disk::new(&home, home.directory(), 8 * 1024);
    fs::copy(home.path("pyzord.access"), disk.path("pyzord.access")).unwrap();
    let mut server = Server::start(&home, disk.inside(&home, &home.command()));
    let mut caller = home.caller();
    server.serves(&mut caller);
    let mut ledger = Ledger::default();
    report_until_refused(&mut caller, &mut ledger, 0);
    server.process().signal(Signal::SIGKILL);
    server.ended();
    // A start on the full disk works, and so do reads.
    let mut server = Server::start(&home, disk.inside(&home, &home.command()));
    server.serves(&mut caller);
    assert_eq!(caller.count(&digest(7)), 1);
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    fs::copy(disk.path("pyzord.db"), home.path("pyzord.db")).unwrap();
    ledger.compare(&home.stored());
}

#[test]
fn logs_on_a_full_disk_delay_nothing() {
    let home = Home::open();
    let logs = home.parent().join("log");
    fs::create_dir(&logs).unwrap();
    let disk = Disk::new(&home, logs.clone(), 64);
    let mut command = home.command();
    command.arg("--log-file").arg(logs.join("main.log")).arg("--usage-log-file").arg(logs.join("usage.log"));
    let mut server = Server::start(&home, disk.inside(&home, &command));
    let mut caller = home.caller();
    server.serves(&mut caller);
    for number in 0..2000 {
        assert_eq!(caller.answered("report", &[&digest(number % 10)]).code(), 200);
    }
    eventually("a full disk", || {
        (fs::metadata(disk.path("usage.log")).unwrap().len() > 50_000).then_some(())
    });
    // Once there is room again, whole lines are written.
    OpenOptions::new().write(true).truncate(true).open(disk.path("usage.log")).unwrap();
    eventually("usage lines", || {
        assert_eq!(caller.answered("ping", &[]).code(), 200);
        fs::read_to_string(disk.path("usage.log")).unwrap().contains(",ping,None,200\n").then_some(())
    });
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    let expected: BTreeMap<String, i64> = (0..10).map(|number| (digest(number), 200)).collect();
    assert_eq!(home.stored(), expected);
}
