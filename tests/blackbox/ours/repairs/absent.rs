//! A marker or a link whose database is missing.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;

use super::{
    OLD_MARKER, REPAIRED, all_names, beside, expect_only_database, log_of_a_start, marker_of, owe_repair,
    small,
};
use crate::harness::{Home, digest, finish};

/// Asserts that a start fails, creates nothing and names both files, and that `--recover` creates nothing either.
#[track_caller]
fn expect_refused(home: &Home, name: &str, other: &str) {
    let directories = [home.directory(), home.parent().join("elsewhere")];
    let all =
        || directories.iter().filter(|path| path.exists()).map(|path| all_names(path)).collect::<Vec<_>>();
    let before = all();
    for detached in [true, false] {
        let finished =
            finish(if detached { home.detached() } else { home.under("exec \"$@\" --recover", false) });
        finished.expect_line(&[name]);
        // One name may be a prefix of the other.
        let rest = finished.stderr.replacen(other, "", 1);
        assert!(!detached || rest.len() < finished.stderr.len() && rest.contains(name), "{finished:?}");
        assert_eq!(all(), before);
    }
}

#[test]
fn marker_without_its_database_creates_none() {
    let home = Home::open();
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let database = home.path("pyzord.db");
    let left = fs::read(marker_of(&database)).unwrap();
    fs::remove_file(&database).unwrap();
    fs::remove_file(home.path("pyzord.pid")).unwrap();
    fs::remove_file(home.path("pyzord.sock")).unwrap();
    for content in [left.as_slice(), OLD_MARKER.as_bytes(), b""] {
        fs::write(marker_of(&database), content).unwrap();
        expect_refused(&home, "pyzord.db", "pyzord.db.open");
        assert_eq!(fs::read(marker_of(&database)).unwrap(), content);
    }
    // Removing the marker, as the message advises, allows a new database.
    fs::remove_file(marker_of(&database)).unwrap();
    home.detach().stop();
    expect_only_database(&home);
}

/// The library's own recovery renames the file to a backup, and then the new file to the name of the database. A kill
/// in between, in an early version of the server, left both under other names.
#[test]
fn backup_of_an_interrupted_repair_is_restored() {
    let (home, stored) = small();
    let database = home.path("pyzord.db");
    fs::copy(&database, beside(&database, ".kQ2x7Z")).unwrap();
    fs::rename(&database, beside(&database, ".~1~")).unwrap();
    owe_repair(&database);
    let log = log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    assert_eq!(home.stored(), stored);
    assert!(!marker_of(&database).exists());
    assert!(!beside(&database, ".~1~").exists());
}

#[test]
fn backup_is_preferred_to_an_incomplete_new_file() {
    let (home, stored) = small();
    let database = home.path("pyzord.db");
    let file = fs::read(&database).unwrap();
    fs::write(beside(&database, ".kQ2x7Z"), &file[..4096]).unwrap();
    fs::rename(&database, beside(&database, ".~1~")).unwrap();
    owe_repair(&database);
    home.detach().stop();
    assert_eq!(home.stored(), stored);
}

#[test]
fn dangling_link_is_reported_with_its_target_and_creates_nothing() {
    for target in ["../elsewhere/real.db", "absolute", "link", "../gone/real.db"] {
        for is_marked in [false, true] {
            let home = Home::open();
            let elsewhere = home.parent().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            let link = home.path("pyzord.db");
            match target {
                "absolute" => symlink(elsewhere.join("real.db"), &link).unwrap(),
                "link" => {
                    symlink(elsewhere.join("real.db"), home.path("second")).unwrap();
                    symlink("second", &link).unwrap();
                }
                relative => symlink(relative, &link).unwrap(),
            }
            if is_marked {
                owe_repair(&elsewhere.join("real.db"));
            }
            expect_refused(&home, "home/pyzord.db", "real.db");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        }
    }
}

#[test]
fn removed_database_is_replaced_after_a_clean_stop() {
    let (home, _) = small();
    home.detach().stop();
    fs::remove_file(home.path("pyzord.db")).unwrap();
    let log = log_of_a_start(&home);
    assert!(!log.contains("WARNING") && !log.contains(REPAIRED), "{log}");
    assert!(home.stored().is_empty());
    expect_only_database(&home);
}
