//! A repair that failed is retried by later starts, even after a clean stop.

use std::fs;

use nix::sys::signal::Signal;

use super::{REPAIRED, expect_only_database, log_of_a_start, marker_of, owe_repair, small, warned_start};
use crate::harness::{Home, digest};

/// Asserts that the marker requires a repair.
#[track_caller]
pub(crate) fn expect_owed(marker: &[u8]) {
    let start = &marker[..marker.len().min(80)];
    assert!(marker.len() == 4096 && marker.starts_with(b"change: 1\n"), "{}", start.escape_ascii());
}

/// Returns a command for a server with a file size limit just above the size of the database.
fn limited(home: &Home) -> std::process::Command {
    let size = fs::metadata(home.path("pyzord.db")).unwrap().len();
    home.under(&format!("exec prlimit --fsize={} \"$@\"", size + 1024), true)
}

#[test]
fn repair_stays_owed_while_a_file_size_limit_prevents_it() {
    let (home, mut stored) = small();
    let database = home.path("pyzord.db");
    owe_repair(&database);
    for round in 0..3 {
        let logged = home.log().len();
        let (daemon, stderr) = warned_start(&home, limited(&home));
        let log = home.log()[logged..].to_owned();
        assert!(log.contains("WARNING") && !log.contains(REPAIRED), "{log}");
        assert!(stderr.contains("warning") && stderr.contains("repair"), "{stderr}");
        expect_owed(&fs::read(marker_of(&database)).unwrap());
        assert_eq!(home.caller().count(&digest(5)), stored[&digest(5)]);
        // A change of an existing record does not need a larger file.
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
