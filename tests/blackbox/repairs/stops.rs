//! A stop in the middle of a repair, which leaves everything as it was.

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
use crate::harness::{ours_only, run};
use crate::support::{Running, Site, finish};

/// How many records the database has: a repair of that takes long enough to be stopped.
const RECORDS: usize = 100_000;
/// At which parts of a whole repair it is stopped.
const MOMENTS: [f64; 4] = [0.1, 0.35, 0.6, 0.85];

/// A closed database of many records. It is made once, for all runs.
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
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("repairs-{RECORDS}.db"));
        if !path.exists() {
            let made = tempfile::NamedTempFile::new_in(folder).unwrap();
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-c", STORE]).arg(made.path()).arg(RECORDS.to_string());
            let output = run(&mut python, b"");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            // Other runs may make it at the same time.
            made.persist(&path).unwrap();
        }
        path
    })
}

/// The database, its marker and its inode, and what else has such a name.
#[derive(PartialEq)]
struct State {
    names: BTreeSet<String>,
    inode: u64,
    database: Vec<u8>,
    marker: Option<Vec<u8>>,
}

impl State {
    fn of(site: &Site) -> Self {
        let path = site.path("pyzord.db");
        Self {
            names: names(&site.home().path(), "pyzord.db"),
            inode: fs::metadata(&path).unwrap().ino(),
            database: fs::read(&path).unwrap(),
            marker: fs::read(marker_of(&path)).ok(),
        }
    }

    #[track_caller]
    fn expect(&self, site: &Site, what: &str) {
        let now = Self::of(site);
        assert_eq!(now.names, self.names, "{what}");
        assert_eq!(now.inode, self.inode, "{what}");
        assert!(now.database == self.database, "{what}: the database has changed");
        assert_eq!(now.marker, self.marker, "{what}");
    }
}

/// A site with the large database, for which a repair is due.
fn owing() -> Site {
    let site = Site::new();
    owe(&site);
    site
}

/// Puts the large database in its place, with a marker with which a repair is due.
fn owe(site: &Site) -> State {
    fs::copy(large(), site.path("pyzord.db")).unwrap();
    owe_repair(&site.path("pyzord.db"));
    State::of(site)
}

/// How long a start takes that repairs the database.
fn whole_repair() -> Duration {
    let site = owing();
    let start = Instant::now();
    let daemon = site.detach();
    let taken = start.elapsed();
    assert!(site.home().log().contains(REPAIRED));
    daemon.stop();
    taken
}

fn stopped(what: &str, moment: f64, whole: Duration, signalled: Instant) {
    println!("{what}, stopped at {moment} of {whole:.1?}: ended {:.1?} later", signalled.elapsed());
}

#[test]
fn repair_at_the_start_is_stopped_and_leaves_everything_as_it_was() {
    if !ours_only() {
        return;
    }
    let whole = whole_repair();
    let site = owing();
    let mut before = State::of(&site);
    let mut interrupted = 0;
    for (moment, signal) in MOMENTS.into_iter().zip([Signal::SIGTERM, Signal::SIGINT].into_iter().cycle()) {
        let said = site.home().log().len();
        let mut server = Running::start(&site, site.command());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        server.daemon().signal(signal);
        let status = server.ended();
        stopped("in the foreground", moment, whole, signalled);
        assert_eq!(status.code(), Some(0), "{signal}");
        let log = site.home().log()[said..].to_owned();
        if log.contains(REPAIRED) {
            // It was quicker this time, and begins anew.
            before = owe(&site);
            continue;
        }
        before.expect(&site, &format!("{signal} at {moment}"));
        interrupted += 1;
    }
    assert!(interrupted > 0, "no repair was stopped");
    expect_repaired_by_the_next_start(&site);
}

#[test]
fn repair_in_the_background_is_stopped_and_leaves_everything_as_it_was() {
    if !ours_only() {
        return;
    }
    let whole = whole_repair();
    let site = owing();
    let mut before = State::of(&site);
    let mut interrupted = 0;
    for moment in MOMENTS {
        let said = site.home().log().len();
        let mut caller = Running::start(&site, site.detached());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        // All but the command that waits for the daemon.
        for pid in site.processes().into_iter().filter(|pid| *pid != caller.daemon().pid()) {
            // It may be a child that ends with its parent.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let status = caller.ended();
        site.expect_nobody();
        stopped("in the background", moment, whole, signalled);
        let log = site.home().log()[said..].to_owned();
        if log.contains(REPAIRED) {
            before = owe(&site);
            continue;
        }
        assert_eq!(status.code(), Some(1), "{log}");
        before.expect(&site, &format!("TERM at {moment}"));
        interrupted += 1;
    }
    let stderr = site.home().stderr();
    assert!(interrupted > 0, "no repair was stopped");
    assert!(stderr.matches("while it was starting").count() >= interrupted, "{stderr}");
    expect_repaired_by_the_next_start(&site);
}

#[test]
fn recovery_on_purpose_is_stopped_and_leaves_everything_as_it_was() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let mut damaged = fs::read(large()).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4 * 4096].fill(0);
    fs::write(site.path("pyzord.db"), &damaged).unwrap();
    let recovering = || site.under("exec \"$@\" --recover", false);
    let start = Instant::now();
    assert_eq!(finish(recovering()).code, Some(0));
    let whole = start.elapsed();

    let site = Site::new();
    fs::write(site.path("pyzord.db"), &damaged).unwrap();
    let mut before = State::of(&site);
    let recovering = || site.under("exec \"$@\" --recover", false);
    let mut interrupted = 0;
    for moment in MOMENTS {
        let mut command = Running::start(&site, recovering());
        thread::sleep(whole.mul_f64(moment));
        let signalled = Instant::now();
        command.daemon().signal(Signal::SIGTERM);
        let status = command.ended();
        stopped("--recover", moment, whole, signalled);
        if status.code() == Some(0) {
            for name in names(&site.home().path(), "pyzord.db.broken-") {
                fs::rename(site.path(&name), site.path("pyzord.db")).unwrap();
            }
            before = State::of(&site);
            continue;
        }
        before.expect(&site, &format!("TERM at {moment}"));
        assert_eq!(status.code(), Some(1), "{status}");
        interrupted += 1;
    }
    assert!(interrupted > 0, "no recovery was stopped");
    assert_eq!(finish(recovering()).code, Some(0));
    assert!(site.stored().len() > RECORDS * 9 / 10);
}

#[track_caller]
fn expect_repaired_by_the_next_start(site: &Site) {
    let log = log_of_a_start(site);
    assert!(log.contains(&format!("{RECORDS} records {REPAIRED}")), "{log}");
    assert_eq!(site.stored().len(), RECORDS);
    expect_only_database(site);
}
