//! A server on a gdbm file, killed at every point that can matter: at each system call of a start, a repair, a
//! `--recover` and a stop ([`calls`]), and at instructions of a change ([`steps`]), which makes no system calls.
//!
//! After each kill a server is started and stopped, and the file is read with gdbmtool, after some kills also with
//! Python.

mod calls;
mod layout;
mod steps;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::harness::tracer::{STOPPED, Traced};
use crate::harness::{Caller, Home, PATIENCE, StopFlag, digest, finish};

const DATABASE: &str = "pyzord.db";
const MARKER: &str = "pyzord.db.open";
/// Number of kills after which Python reads the file, too.
const SAMPLE: u64 = 5;
/// Prefix of the name under which `--recover` keeps the original file.
const KEPT: &str = "pyzord.db.broken-";

/// All records, each with its text.
type Records = BTreeMap<String, String>;

/// Returns the number in an environment variable.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Returns a home whose servers can be traced.
fn home() -> Home {
    // Only root can read the memory of a confined server.
    let settings = if Uid::effective().is_root() { "" } else { "Confine = False\n" };
    Home::open().config(settings)
}

/// Starts a server in the foreground, stopped before its first instruction for the tracer.
fn traced(home: &Home) -> Traced {
    traced_with(home, &[])
}

/// Starts a server like [`traced`], with further arguments.
fn traced_with(home: &Home, arguments: &[&str]) -> Traced {
    let output = |name: &str| {
        let path = home.parent().join(name);
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
    };
    let mut command: Command = home.under(STOPPED, false);
    command.args(arguments).stdout(output("stdout")).stderr(output("stderr"));
    Traced::start(&mut command)
}

/// Replaces the database and everything beside it by this file and this marker, and empties the log. With a marker, the
/// file ends with a hole, like that of a killed server.
fn put(home: &Home, database: Option<&[u8]>, marker: Option<&str>) {
    home.rewrite("pyzord.log", "");
    for name in names(home) {
        fs::remove_file(home.path(&name)).unwrap();
    }
    if let Some(content) = database {
        fs::write(home.path(DATABASE), content).unwrap();
    }
    if let Some(marker) = marker {
        let file = fs::OpenOptions::new().write(true).open(home.path(DATABASE)).unwrap();
        file.set_len(file.metadata().unwrap().len() + (1 << 30)).unwrap();
        fs::write(home.path(MARKER), format!("{marker:<4095}\n")).unwrap();
    }
}

/// Returns the names of the database and of everything beside it.
fn names(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(DATABASE)).collect();
    names.sort();
    names
}

/// A closed database that a server has written.
struct Seed {
    file: Vec<u8>,
    records: Records,
}

impl Seed {
    /// Creates a database in which each digest has this many reports.
    fn reported(digests: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let home = home();
        let daemon = home.detach();
        let mut caller = home.caller();
        for (number, times) in digests {
            for _ in 0..times {
                assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
            }
        }
        daemon.stop();
        Self::of(&home)
    }

    /// Reads the database of a home.
    fn of(home: &Home) -> Self {
        Self { file: fs::read(home.path(DATABASE)).unwrap(), records: home.database().list().unwrap() }
    }

    /// Returns the expectation that no record changes.
    fn expected(&self) -> Expected {
        Expected { texts: self.records.clone(), counts: BTreeMap::new() }
    }
}

/// A file for `--recover`.
struct Recovery {
    content: Vec<u8>,
    is_damaged: bool,
}

/// The expected content of the database.
struct Expected {
    /// Records that must not have changed.
    texts: Records,
    /// The lowest and the highest count of other digests; 0: no record.
    counts: BTreeMap<String, (i64, i64)>,
}

impl Expected {
    /// Expects a count within this range.
    fn count(&mut self, digest: &str, least: i64, most: i64) {
        self.texts.remove(digest);
        self.counts.insert(digest.to_owned(), (least, most));
    }

    /// Compares the stored records with the expected ones. Returns the first difference.
    fn compare(&self, stored: &Records) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (digest, text) in &self.texts {
            match stored.get(digest) {
                Some(found) if found == text => {}
                found => wrong.push(format!("{digest}: {found:?}, not {text}")),
            }
        }
        for (digest, (least, most)) in &self.counts {
            let found = stored.get(digest).map_or(Some(0), |text| text.split(',').nth(1)?.parse().ok());
            if !found.is_some_and(|found| (*least..=*most).contains(&found)) {
                wrong.push(format!("{digest}: {:?}, not {least} to {most} reports", stored.get(digest)));
            }
        }
        let is_known = |digest: &str| self.texts.contains_key(digest) || self.counts.contains_key(digest);
        let unknown = stored.iter().filter(|(digest, _)| !is_known(digest));
        wrong.extend(
            unknown.map(|(digest, text)| format!("{digest:?} is not a digest that was reported: {text:?}")),
        );
        match wrong.first() {
            Some(first) => Err(format!("{} of {} records are wrong: {first}", wrong.len(), self.texts.len())),
            None => Ok(()),
        }
    }
}

/// The kills of one scenario and their results.
struct Tally {
    what: &'static str,
    checks: u64,
    kills: u64,
    repairs: u64,
    failures: Vec<String>,
}

impl Tally {
    fn new(what: &'static str) -> Self {
        Self { what, checks: 0, kills: 0, repairs: 0, failures: Vec::new() }
    }

    /// Counts a run that was killed at this point, or not at all, and checks the files that it has left.
    fn check(&mut self, home: &Home, killed_at: Option<u64>, expected: &Expected) {
        let point = self.count(killed_at);
        let outcome = self.served(home, expected).and_then(|()| only_the_database(home, &[]));
        self.note(home, &point, outcome);
    }

    /// Counts a run of `--recover` on this file and checks the files that it has left. The next start may still refuse
    /// the file; the message then names `--recover`, which must succeed. A run that repairs something keeps the
    /// original file, and a killed run may have kept it.
    fn check_recovered(&mut self, home: &Home, killed_at: Option<u64>, expected: &Expected, file: &Recovery) {
        let point = self.count(killed_at);
        let (mut least, mut most) = (u64::from(killed_at.is_none() && file.is_damaged), 1);
        let outcome = match self.served(home, expected) {
            Err(error) if error.contains("pyzord --recover") => {
                let mut command = home.command();
                command.arg("--recover");
                (least, most) = (least + 1, most + 1);
                match finish(command) {
                    finished if finished.code == Some(0) => self.served(home, expected),
                    finished => Err(format!("{finished:?}")),
                }
            }
            outcome => outcome,
        };
        let kept: Vec<String> = names(home).into_iter().filter(|name| name.starts_with(KEPT)).collect();
        let outcome = outcome.and_then(|()| only_the_database(home, &kept)).and_then(|()| {
            if !(least..=most).contains(&(kept.len() as u64)) {
                return Err(format!("the original file is kept {} times", kept.len()));
            }
            match kept.iter().find(|name| fs::read(home.path(name)).unwrap() != file.content) {
                Some(name) => Err(format!("{name} is not the original file")),
                None => Ok(()),
            }
        });
        self.note(home, &point, outcome);
    }

    fn count(&mut self, killed_at: Option<u64>) -> String {
        self.checks += 1;
        self.kills += u64::from(killed_at.is_some());
        killed_at.map_or("not killed".to_owned(), |point| format!("killed at {point}"))
    }

    fn note(&mut self, home: &Home, point: &str, outcome: Result<(), String>) {
        if let Err(error) = outcome {
            self.failures.push(format!("{point}: {error}"));
            // The next run must not meet these processes.
            for pid in home.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Starts and stops a server, and checks the content of the database.
    fn served(&mut self, home: &Home, expected: &Expected) -> Result<(), String> {
        let logged = home.log().len();
        let finished = finish(home.detached());
        self.repairs += u64::from(home.log()[logged..].contains("records recovered"));
        if finished.code != Some(0) {
            return Err(format!("no start: {}", finished.stderr.trim_end()));
        }
        home.daemon().stop();
        let database = home.database();
        let stored = database.list()?;
        if self.checks % SAMPLE == 1 {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let read =
                database.read().iter().map(|(key, value)| (text(key), text(value))).collect::<Records>();
            if read != stored {
                return Err(format!("Python reads {} records, gdbmtool {}", read.len(), stored.len()));
            }
        }
        expected.compare(&stored)
    }

    /// Prints the result, and panics if anything was wrong.
    fn finish(self) {
        let Self { what, kills, repairs, failures, .. } = self;
        println!("{what}: {kills} kills, {repairs} starts repaired the file, {} failures", failures.len());
        failures.iter().for_each(|failure| println!("{what}, {failure}"));
        assert!(failures.is_empty(), "{what}: {} of {kills} kills failed: {}", failures.len(), failures[0]);
        assert!(kills > 0, "{what}: nothing was killed");
    }
}

/// Checks that only the database and `others` exist.
fn only_the_database(home: &Home, others: &[String]) -> Result<(), String> {
    let names = names(home);
    let strays: Vec<&String> =
        names.iter().filter(|name| *name != DATABASE && !others.contains(name)).collect();
    if names.iter().any(|name| name == DATABASE) && strays.is_empty() {
        return Ok(());
    }
    Err(format!("there are {names:?}"))
}

/// Sends requests until a server answers or `over` is set. Returns whether it answered.
fn is_answered(home: &Home, over: &StopFlag) -> bool {
    let mut caller: Caller = home.caller();
    let deadline = Instant::now() + PATIENCE;
    while !over.is_set() && Instant::now() < deadline {
        let reply = caller.ask("check", &[&digest(0)], Duration::from_millis(100));
        if reply.is_some_and(|reply| reply.code() == 200) {
            return true;
        }
        // Without a listener the request fails immediately.
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Sends a signal to a process, unless it has ended.
fn signal(pid: Pid, signal: Signal, over: &StopFlag) {
    if !over.is_set() {
        let _ = kill(pid, signal);
    }
}

/// Waits until `over` is set, and kills the process at the deadline.
fn kill_at_deadline(pid: Pid, over: &StopFlag) {
    let deadline = Instant::now() + PATIENCE;
    while !over.is_set() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    signal(pid, Signal::SIGKILL, over);
}

/// Returns whether a path is that of the database or of a file beside it.
fn is_beside(home: &Home, path: &Path) -> bool {
    path.parent() == Some(&home.directory())
        && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DATABASE))
}
