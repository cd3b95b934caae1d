//! A usage log on a full disk under load.

use std::fs;

use nix::sys::signal::Signal;

use super::Disk;
use crate::harness::{Home, Server, eventually};
use crate::ours::machine::under_load;
use crate::ours::machine_logs::{reports, sum_before};

#[test]
fn usage_lines_lost_on_a_full_disk_are_counted() {
    let home = Home::open();
    let directory = home.parent().join("log");
    fs::create_dir(&directory).unwrap();
    let disk = Disk::new(&home, directory.clone(), 2048);
    disk.fill("ballast", 1984);
    let log = home.parent().join("main.log");
    let mut command = home.command();
    command.arg("--log-file").arg(&log).arg("--usage-log-file").arg(directory.join("usage.log"));
    let mut server = Server::start(&home, disk.inside(&home, &command));
    server.serves(&mut home.caller());
    let ledger = under_load(&home, || {
        eventually("a full disk", || {
            fs::read_to_string(&log).unwrap().contains("its lines are lost until").then_some(())
        });
        fs::remove_file(disk.path("ballast")).unwrap();
        eventually("room", || fs::read_to_string(&log).unwrap().contains("is writable again").then_some(()));
    });
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    ledger.compare(&home.stored());

    let log = fs::read_to_string(&log).unwrap();
    let usage = fs::read_to_string(disk.path("usage.log")).unwrap();
    let (written, lost) = (reports(&usage), sum_before(&log, " lines were lost"));
    assert!(lost > 0, "{log}");
    // A line without its newline is complete for this test, but lost for the server.
    let difference = written + lost - ledger.acknowledged();
    assert!((0..=1).contains(&difference), "{written} written, {lost} lost, {}", ledger.acknowledged());
}
