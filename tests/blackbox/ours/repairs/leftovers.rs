//! Files that an interrupted repair has left beside the database.

use std::fs;

use super::{REPAIRED, beside, expect_only_database, log_of_a_start, names, owe_repair, small};
use crate::harness::{Home, finish};

/// Suffixes of the files that the server and the library leave when they are killed during a repair.
const ENDINGS: [&str; 2] = [".repair", ".repair.a1B2c3"];

fn leave(home: &Home) {
    for ending in ENDINGS {
        fs::write(beside(&home.path("pyzord.db"), ending), "a part of a file").unwrap();
    }
}

#[test]
fn leftovers_of_a_repair_are_removed_by_the_next_one() {
    let (home, stored) = small();
    for round in 0..2 {
        leave(&home);
        if round == 1 {
            // After a kill before the rename it is a second name of the database.
            let link = beside(&home.path("pyzord.db"), ".repair");
            fs::remove_file(&link).unwrap();
            fs::hard_link(home.path("pyzord.db"), &link).unwrap();
        }
        owe_repair(&home.path("pyzord.db"));
        let log = log_of_a_start(&home);
        assert!(log.contains(REPAIRED), "{log}");
        assert_eq!(home.stored(), stored);
        expect_only_database(&home);
    }
}

#[test]
fn leftovers_stay_while_another_process_has_the_database_open() {
    let (home, _) = small();
    let daemon = home.detach();
    leave(&home);
    let before = names(&home.directory(), "pyzord.db");
    let mut command = home.command();
    command.args(["--detach", "/dev/null", "--pid-file", "other.pid"]);
    finish(command).expect_line(&["pyzord.db is in use by process"]);
    let mut command = home.command();
    command.arg("--recover");
    finish(command).expect_line(&["pyzord.db is in use by process"]);
    assert_eq!(names(&home.directory(), "pyzord.db"), before);
    daemon.stop();
}

/// Files whose names begin like those of a repair.
#[test]
fn files_of_the_operator_with_similar_names_stay() {
    let (home, stored) = small();
    let database = home.path("pyzord.db");
    let theirs = [".repair-monday", ".repair.backup2", ".repaired", ".2019-old~", ".complete", ".~old~"];
    for ending in theirs {
        fs::write(beside(&database, ending), "theirs").unwrap();
    }
    owe_repair(&database);
    let log = log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    fs::rename(&database, home.path("away")).unwrap();
    owe_repair(&database);
    finish(home.detached()).expect_line(&["pyzord.db is missing", "pyzord.db.open", "pyzord.db.2019-old~"]);
    fs::remove_file(beside(&database, ".open")).unwrap();
    fs::rename(home.path("away"), &database).unwrap();
    for ending in theirs {
        assert_eq!(fs::read_to_string(beside(&database, ending)).unwrap(), "theirs");
        fs::remove_file(beside(&database, ending)).unwrap();
    }
    assert_eq!(home.stored(), stored);
}
