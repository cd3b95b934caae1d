//! A repair that could not be made is made by a later start, however the server was stopped in between.

use std::fs;

use nix::sys::signal::Signal;

use super::{REPAIRED, expect_only_database, log_of_a_start, marker_of, owe_repair, small, warned_start};
use crate::harness::{Home, digest};

/// Expects that the marker says that a repair is due.
#[track_caller]
pub(crate) fn expect_owed(marker: &[u8]) {
    let start = &marker[..marker.len().min(80)];
    assert!(marker.len() == 4096 && marker.starts_with(b"change: 1\n"), "{}", start.escape_ascii());
}

/// A server that may make no file of twice the database's size.
fn limited(home: &Home) -> std::process::Command {
    let size = fs::metadata(home.path("pyzord.db")).unwrap().len();
    home.under(&format!("exec prlimit --fsize={} \"$@\"", size + 1024), true)
}

#[test]
fn repair_that_a_limit_of_file_sizes_prevents_stays_owed() {
    let (home, mut stored) = small();
    let database = home.path("pyzord.db");
    owe_repair(&database);
    for round in 0..3 {
        let said = home.log().len();
        let (daemon, stderr) = warned_start(&home, limited(&home));
        let log = home.log()[said..].to_owned();
        assert!(log.contains("WARNING") && !log.contains(REPAIRED), "{log}");
        assert!(stderr.contains("warning") && stderr.contains("repair"), "{stderr}");
        expect_owed(&fs::read(marker_of(&database)).unwrap());
        assert_eq!(home.caller().count(&digest(5)), stored[&digest(5)]);
        // A change, in the third round as well; it needs no larger file.
        if home.caller().answered("report", &[&digest(5)]).code() == 200 {
            *stored.get_mut(&digest(5)).unwrap() += 1;
        }
        expect_owed(&fs::read(marker_of(&database)).unwrap());
        if round == 1 {
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
        } else {
            daemon.stop();
        }
        expect_owed(&fs::read(marker_of(&database)).unwrap());
    }
    let log = log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    assert_eq!(home.stored(), stored);
    expect_only_database(&home);
}
