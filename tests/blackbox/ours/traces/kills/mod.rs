//! A server on a gdbm file, killed at every point where that can matter: at each system call of a start, a repair,
//! a `--recover` and a stop ([`calls`]), and at instructions of a change ([`steps`]), which calls nothing.
//!
//! After each kill a server is started as always, stopped, and the file read with gdbm's own tool, after some of
//! them with Python, too.

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
/// After every how many kills Python reads the file, too.
const SAMPLE: u64 = 5;
/// What `--recover` calls the file as it was, before the date.
const KEPT: &str = "pyzord.db.broken-";

/// All records, each with its text.
type Records = BTreeMap<String, String>;

/// A number that an environment variable sets.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// A home whose servers can be traced to the end.
fn home() -> Home {
    // The memory of a confined server can be read by root alone.
    let settings = if Uid::effective().is_root() { "" } else { "Confine = False\n" };
    Home::open().config(settings)
}

/// A server in the foreground that stops itself before it becomes the server, as the tracer wants it.
fn traced(home: &Home) -> Traced {
    traced_with(home, &[])
}

/// A server as [`traced`] starts it, with further arguments.
fn traced_with(home: &Home, arguments: &[&str]) -> Traced {
    let output = |name: &str| {
        let path = home.parent().join(name);
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
    };
    let mut command: Command = home.under(STOPPED, false);
    command.args(arguments).stdout(output("stdout")).stderr(output("stderr"));
    Traced::start(&mut command)
}

/// Removes the database, everything beside it and the log, and puts this file and this marker there instead. The
/// file ends with a hole, as that of a server that was killed, if the marker is there.
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

/// The names of the database and of everything beside it.
fn names(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(DATABASE)).collect();
    names.sort();
    names
}

/// A database in which a server has counted, and that it has closed.
struct Seed {
    file: Vec<u8>,
    records: Records,
}

impl Seed {
    /// Reports each of these as often as is said, to a new database.
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

    /// What is at this home.
    fn of(home: &Home) -> Self {
        Self { file: fs::read(home.path(DATABASE)).unwrap(), records: home.database().list().unwrap() }
    }

    /// That its records are as they are.
    fn expected(&self) -> Expected {
        Expected { texts: self.records.clone(), counts: BTreeMap::new() }
    }
}

/// A file that `--recover` is to look at.
struct Recovery {
    content: Vec<u8>,
    is_damaged: bool,
}

/// What must be in the database.
struct Expected {
    /// Records that nothing has changed.
    texts: Records,
    /// The least and the highest count of the others; 0 is that there is none.
    counts: BTreeMap<String, (i64, i64)>,
}

impl Expected {
    /// That this digest has been counted from so often to so often.
    fn count(&mut self, digest: &str, least: i64, most: i64) {
        self.texts.remove(digest);
        self.counts.insert(digest.to_owned(), (least, most));
    }

    /// Says what is wrong, if anything is.
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

/// The kills of one scenario, and what came of them.
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

    /// Counts a run that was killed at this point, or not at all, and looks at what it has left.
    fn check(&mut self, home: &Home, killed_at: Option<u64>, expected: &Expected) {
        let point = self.count(killed_at);
        let outcome = self.served(home, expected).and_then(|()| only_the_database(home, &[]));
        self.note(home, &point, outcome);
    }

    /// Counts a run of `--recover` on this file, and looks at what it has left. The next start may still refuse the
    /// file, and then names `--recover`, which helps. Each run that finds something to do keeps the file as it was;
    /// one that was killed may have done so.
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
                return Err(format!("the file as it was is kept {} times", kept.len()));
            }
            match kept.iter().find(|name| fs::read(home.path(name)).unwrap() != file.content) {
                Some(name) => Err(format!("{name} is not the file as it was")),
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
            // Not to be met by the next run.
            for pid in home.processes() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Starts a server and stops it, and looks at what the database then holds.
    fn served(&mut self, home: &Home, expected: &Expected) -> Result<(), String> {
        let said = home.log().len();
        let finished = finish(home.detached());
        self.repairs += u64::from(home.log()[said..].contains("records recovered"));
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

    /// Prints what there was, and panics if anything was wrong.
    fn finish(self) {
        let Self { what, kills, repairs, failures, .. } = self;
        println!("{what}: {kills} kills, {repairs} starts repaired the file, {} failures", failures.len());
        failures.iter().for_each(|failure| println!("{what}, {failure}"));
        assert!(failures.is_empty(), "{what}: {} of {kills} kills failed: {}", failures.len(), failures[0]);
        assert!(kills > 0, "{what}: nothing was killed");
    }
}

/// Nothing is left beside the database but these.
fn only_the_database(home: &Home, others: &[String]) -> Result<(), String> {
    let names = names(home);
    let strays: Vec<&String> =
        names.iter().filter(|name| *name != DATABASE && !others.contains(name)).collect();
    if names.iter().any(|name| name == DATABASE) && strays.is_empty() {
        return Ok(());
    }
    Err(format!("there are {names:?}"))
}

/// Asks until a server answers, or it is over. Returns whether it does.
fn is_answered(home: &Home, over: &StopFlag) -> bool {
    let mut caller: Caller = home.caller();
    let deadline = Instant::now() + PATIENCE;
    while !over.is_set() && Instant::now() < deadline {
        let reply = caller.ask("check", &[&digest(0)], Duration::from_millis(100));
        if reply.is_some_and(|reply| reply.code() == 200) {
            return true;
        }
        // Where nobody listens the answer comes at once.
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Sends a signal to a process that may have ended.
fn signal(pid: Pid, signal: Signal, over: &StopFlag) {
    if !over.is_set() {
        let _ = kill(pid, signal);
    }
}

/// Waits until it is over, and kills a process that takes too long.
fn kill_at_deadline(pid: Pid, over: &StopFlag) {
    let deadline = Instant::now() + PATIENCE;
    while !over.is_set() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    signal(pid, Signal::SIGKILL, over);
}

/// Whether this is the database or beside it.
fn is_beside(home: &Home, path: &Path) -> bool {
    path.parent() == Some(&home.directory())
        && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DATABASE))
}
