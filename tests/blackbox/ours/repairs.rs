//! Repairs of the gdbm file, and the marker beside it, which shows the next start whether a repair is needed.

mod absent;
mod leftovers;
pub(crate) mod links;
mod markers;
pub(crate) mod owed;
mod stops;
mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::harness::{Home, Ledger, Process, digest, finish};

/// The marker of early versions, which had only a text and always required a repair.
pub(crate) const OLD_MARKER: &str = "pyzord has the database open, or was killed while it had. It removes this file \
                                     when it closes the database; where it finds it at the start, it first repairs the \
                                     database.\n";
/// Part of the log line of a repair.
pub(crate) const REPAIRED: &str = "records recovered";
/// Number of records in the small databases of these tests.
pub(crate) const RECORDS: u32 = 300;

/// Returns a home with a small closed database, and the count of each digest.
pub(crate) fn small() -> (Home, BTreeMap<String, i64>) {
    let home = Home::open();
    fill(&home);
    let stored = home.stored();
    (home, stored)
}

/// Writes the records of [`small`] to the database of a home.
pub(crate) fn fill(home: &Home) {
    let text = |count| format!("1,{count},2026-01-01 00:00:00,2026-11-01 00:00:00,0,None,None");
    let records: Vec<_> = (0..RECORDS).map(|number| (digest(number), text(number % 7 + 1))).collect();
    home.database().write(&records);
}

/// Returns the path of a database with a suffix.
pub(crate) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Returns the path of the marker of a database.
pub(crate) fn marker_of(database: &Path) -> PathBuf {
    beside(database, ".open")
}

/// Creates a marker that makes the next start repair the database.
pub(crate) fn owe_repair(database: &Path) {
    fs::write(marker_of(database), OLD_MARKER).unwrap();
    fs::set_permissions(marker_of(database), Permissions::from_mode(0o600)).unwrap();
}

/// Returns the names in a directory that begin with `start`.
pub(crate) fn names(directory: &Path, start: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start)).collect()
}

/// Returns the names in a homedir, without logs, which every start may create.
pub(crate) fn all_names(directory: &Path) -> BTreeSet<String> {
    names(directory, "").into_iter().filter(|name| !name.ends_with(".log")).collect()
}

/// Asserts that there is a database and nothing beside it.
#[track_caller]
pub(crate) fn expect_only_database(home: &Home) {
    assert_eq!(names(&home.directory(), "pyzord.db"), ["pyzord.db".to_owned()].into());
    assert!(!home.path("pyzord.disk").exists(), "the note of a database on another file system");
}

/// Starts a server in the background and stops it. Returns what it logged.
#[track_caller]
pub(crate) fn log_of_a_start(home: &Home) -> String {
    let logged = home.log().len();
    home.detach().stop();
    home.log()[logged..].to_owned()
}

/// Starts a server, which must succeed and may warn. Returns it and its stderr.
#[track_caller]
pub(crate) fn warned_start(home: &Home, command: std::process::Command) -> (Process, String) {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    (home.daemon(), finished.stderr)
}

/// Reports old and new digests, kills the server while it counts more, and enters all of them into the ledger.
pub(crate) fn kill_under_load(home: &Home, daemon: Process, ledger: &mut Ledger, round: u32) {
    let mut caller = home.caller();
    let first = 1000 * (round + 1);
    let digests: Vec<String> = (first..first + 150 + 37 * round).map(digest).collect();
    for name in &digests {
        let reply = caller.answered("report", &[name]);
        ledger.enter(name, Some(&reply));
    }
    for number in 0..100 {
        // Every second one is new.
        let name = if number % 2 == 0 { digest(first) } else { digest(first + 500 + number) };
        caller.send("report", &[&name], 2000 + number);
        ledger.enter(&name, None);
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
}
