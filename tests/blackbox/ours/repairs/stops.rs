//! Stops in the middle of a repair, which must leave everything unchanged.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::{REPAIRED, expect_only_database, log_of_a_start, marker_of, names, owe_repair};
use crate::harness::{Home, Server, finish, run};

/// Number of records in the database: enough for a repair that takes long enough to be stopped.
const RECORDS: usize = 100_000;
/// Points at which a repair is stopped, as fractions of its duration.
const MOMENTS: [f64; 4] = [0.1, 0.35, 0.6, 0.85];

/// Returns a closed database of many records, which is created once for all runs.
fn large() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        const STORE: &str = "
import dbm.gnu, hashlib, sys
with dbm.gnu.open(sys.argv[1], 'nf', 0o600) as database:
    for number in range(int(sys.argv[2])):
        key = hashlib.sha1(str(number).encode()).hexdigest()
        database[key] = '1,1,2026-01-01 00:00:00,2026-11-01 00:00:00,0,None,None'
";
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join(format!("repairs-{RECORDS}.db"));
        if !path.exists() {
            let made = tempfile::NamedTempFile::new_in(directory).unwrap();
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-c", STORE]).arg(made.path()).arg(RECORDS.to_string());
            let output = run(&mut python, b"");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            // Other test runs may create it at the same time.
            made.persist(&path).unwrap();
        }
        path
    })
}

/// The database, its marker and inode, and the names beside it.
#[derive(PartialEq)]
struct State {
    names: BTreeSet<String>,
    inode: u64,
    database: Vec<u8>,
    marker: Option<Vec<u8>>,
}

impl State {
    fn of(home: &Home) -> Self {
        let path = home.path("pyzord.db");
        Self {
            names: names(&home.directory(), "pyzord.db"),
            inode: fs::metadata(&path).unwrap().ino(),
            database: fs::read(&path).unwrap(),
            marker: fs::read(marker_of(&path)).ok(),
        }
    }

    #[track_caller]
    fn expect(&self, home: &Home, what: &str) {
        let now = Self::of(home);
        assert_eq!(now.names, self.names, "{what}");
        assert_eq!(now.inode, self.inode, "{what}");
        assert!(now.database == self.database, "{what}: the database has changed");
        assert_eq!(now.marker, self.marker, "{what}");
    }
}

/// Returns a home with the large database, which needs a repair.
fn owing() -> Home {
    let home = Home::open();
    owe(&home);
    home
}

/// Copies the large database into a home, with a marker that requires a repair.
fn owe(home: &Home) -> State {
    fs::copy(large(), home.path("pyzord.db")).unwrap();
    owe_repair(&home.path("pyzord.db"));
    State::of(home)
}

/// Returns the duration of a start that repairs the database.
fn whole_repair() -> Duration {
    let home = owing();
    let start = Instant::now();
    let daemon = home.detach();
    let taken = start.elapsed();
    assert!(home.log().contains(REPAIRED));
    daemon.stop();
    taken
}

fn stopped(what: &str, moment: f64, whole: Duration, signalled: Instant) {
    println!("{what}, stopped at {moment} of {whole:.1?}: ended {:.1?} later", signalled.elapsed());
}

#[test]
fn stopped_repair_at_the_start_leaves_everything_unchanged() {
    let whole = whole_repair();
    let home = owing();
    let mut before = State::of(&home);
    let mut interrupted = 0;
    for (moment, signal) in MOMENTS.into_iter().zip([Signal::SIGTERM, Signal::SIGINT].into_iter().cycle()) {
        let logged = home.log().len();
        let mut server = Server::start(&home, home.command());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        server.process().signal(signal);
        let status = server.ended();
        stopped("in the foreground", moment, whole, signalled);
        assert_eq!(status.code(), Some(0), "{signal}");
        let log = home.log()[logged..].to_owned();
        if log.contains(REPAIRED) {
            // The repair was complete before the signal. Start over.
            before = owe(&home);
            continue;
        }
        before.expect(&home, &format!("{signal} at {moment}"));
        interrupted += 1;
    }
    assert!(interrupted > 0, "no repair was stopped");
    expect_repaired_by_the_next_start(&home);
}

#[test]
fn stopped_repair_in_the_background_leaves_everything_unchanged() {
    let whole = whole_repair();
    let home = owing();
    let mut before = State::of(&home);
    let mut interrupted = 0;
    for moment in MOMENTS {
        let logged = home.log().len();
        let mut caller = Server::start(&home, home.detached());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        // All processes but the command that waits for the daemon.
        for pid in home.processes().into_iter().filter(|pid| *pid != caller.process().pid()) {
            // It may have ended already, with its parent.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let status = caller.ended();
        home.expect_no_process();
        stopped("in the background", moment, whole, signalled);
        let log = home.log()[logged..].to_owned();
        if log.contains(REPAIRED) {
            before = owe(&home);
            continue;
        }
        assert_eq!(status.code(), Some(1), "{log}");
        before.expect(&home, &format!("TERM at {moment}"));
        interrupted += 1;
    }
    let stderr = home.stderr();
    assert!(interrupted > 0, "no repair was stopped");
    assert!(stderr.matches("while starting").count() >= interrupted, "{stderr}");
    expect_repaired_by_the_next_start(&home);
}

#[test]
fn stopped_recovery_leaves_everything_unchanged() {
    let home = Home::open();
    let mut damaged = fs::read(large()).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4 * 4096].fill(0);
    fs::write(home.path("pyzord.db"), &damaged).unwrap();
    let recovering = || home.under("exec \"$@\" --recover", false);
    let start = Instant::now();
    assert_eq!(finish(recovering()).code, Some(0));
    let whole = start.elapsed();

    let home = Home::open();
    fs::write(home.path("pyzord.db"), &damaged).unwrap();
    let mut before = State::of(&home);
    let recovering = || home.under("exec \"$@\" --recover", false);
    let mut interrupted = 0;
    for moment in MOMENTS {
        let mut command = Server::start(&home, recovering());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        command.process().signal(Signal::SIGTERM);
        let status = command.ended();
        stopped("--recover", moment, whole, signalled);
        if status.code() == Some(0) {
            for name in names(&home.directory(), "pyzord.db.broken-") {
                fs::rename(home.path(&name), home.path("pyzord.db")).unwrap();
            }
            before = State::of(&home);
            continue;
        }
        before.expect(&home, &format!("TERM at {moment}"));
        assert_eq!(status.code(), Some(1), "{status}");
        interrupted += 1;
    }
    assert!(interrupted > 0, "no recovery was stopped");
    assert_eq!(finish(recovering()).code, Some(0));
    assert!(home.stored().len() > RECORDS * 9 / 10);
}

#[track_caller]
fn expect_repaired_by_the_next_start(home: &Home) {
    let log = log_of_a_start(home);
    assert!(log.contains(&format!("{RECORDS} {REPAIRED}")), "{log}");
    assert_eq!(home.stored().len(), RECORDS);
    expect_only_database(home);
}
