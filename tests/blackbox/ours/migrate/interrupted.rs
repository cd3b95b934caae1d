//! Migrations that are interrupted, while a server goes on counting into the source: nothing is lost,
//! nothing is counted twice, and running it again completes the job.
//!
//! `PYZORD_KILLS` is how often each pair of engines is interrupted in the tests of `kill -9`, and
//! `PYZORD_KILL_RECORDS` how many records there are to move each time.

mod cluster;
mod counted;
mod journals;
mod masters;
mod mounts;
mod proxy;
mod slots;
mod stopped;
mod stores;
mod twice;

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha1::Digest as _;
use tempfile::TempDir;

use counted::{Content, Counted, Tally};
use stores::{Store, store};

use crate::harness::{Caller, Finished, StopFlag, unix_time};

/// Of so many of them is reported all the time, and of so many digests that were not there at the start.
const HOT: u32 = 20;
const NEW: u32 = 200;
const CALLERS: u64 = 2;
/// No migration here takes so long.
const LONGEST_MIGRATION: Duration = Duration::from_secs(240);
/// The time of the first record.
const THEN: i64 = 1_700_000_000;

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

fn kills() -> u32 {
    number("PYZORD_KILLS", 2)
}

/// How many records there are to move whenever a migration is about to be killed.
fn to_move() -> u32 {
    number("PYZORD_KILL_RECORDS", 5_000)
}

/// A digest of its own for each number, all over the key space as real ones are.
fn digest(number: u32) -> String {
    sha1::Sha1::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Records of these numbers: one in three was only reported, and one in three only whitelisted.
fn records(numbers: impl Iterator<Item = u32>) -> Content {
    let record = |number: u32| {
        let first = THEN + i64::from(number);
        let tally = Tally { count: i64::from(number % 5) + 1, first: Some(first), last: Some(first + 1000) };
        let none = Tally::default();
        let tallies = match number % 3 {
            0 => [tally, none],
            1 => [none, tally],
            _ => [tally, Tally { count: tally.count + 1, ..tally }],
        };
        (digest(number), tallies)
    };
    numbers.map(record).collect()
}

/// Numbers that nobody foresees.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    /// A number below this one.
    fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Two databases, what has to be in them, and the migration from one to the other.
struct Scene {
    source: Box<dyn Store>,
    target: Box<dyn Store>,
    directory: TempDir,
    arguments: Vec<String>,
    /// What was counted into the source, and what the destination had before.
    counted: Mutex<Counted>,
    before: Counted,
    /// Numbers below this one have been given to records of the source.
    next: AtomicU32,
}

impl Scene {
    /// A source with so many records, a destination without any, and these options.
    fn new(from: &str, to: &str, records: u32, arguments: &[&str]) -> Self {
        Self::between(store(from), store(to), records, arguments)
    }

    /// The same between these two.
    fn between(source: Box<dyn Store>, target: Box<dyn Store>, records: u32, arguments: &[&str]) -> Self {
        let scene = Self {
            source,
            target,
            directory: tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            counted: Mutex::default(),
            before: Counted::default(),
            next: AtomicU32::new(0),
        };
        scene.fill(records);
        scene
    }

    /// Adds `--merge`, and records to the destination.
    fn merging(mut self) -> Self {
        self.arguments.push("--merge".to_owned());
        self.with_before()
    }

    /// Adds records to the destination, of which some are in the source, too.
    fn with_before(mut self) -> Self {
        // Others of the same digests: the numbers that make their counts and times are others.
        let mine: Vec<String> = (0..self.next()).step_by(4).chain(9_000_000..9_001_000).map(digest).collect();
        let theirs = records(7..7 + u32::try_from(mine.len()).unwrap());
        let before: Content = mine.into_iter().zip(theirs.into_values()).collect();
        self.target.add(&before);
        self.before.store(&before);
        self
    }

    /// Adds `--journal` with a file of this scene.
    fn journalled(mut self) -> Self {
        let journal = self.journal().display().to_string();
        self.arguments.extend(["--journal".to_owned(), journal]);
        self
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// Where the program keeps a journal that nobody has named.
    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn deletes(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--delete")
    }

    /// Stores so many more records in the source.
    fn fill(&self, number: u32) {
        let next = self.next();
        let content = records(next..next + number);
        self.source.add(&content);
        self.counted.lock().unwrap().store(&content);
        self.next.store(next + number, Ordering::Relaxed);
    }

    fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// The migration from this source instead.
    fn command_from(&self, engine: &str, dsn: &str) -> Command {
        let mut command = Command::new(program());
        command.args(["--se", engine, "--sd", dsn]);
        command.args(["--de", self.target.engine(), "--dd", &self.target.dsn()]).args(&self.arguments);
        self.surround(&mut command);
        command
    }

    fn command(&self) -> Command {
        self.command_from(self.source.engine(), &self.source.dsn())
    }

    /// Keeps a command away from what is not of this scene.
    fn surround(&self, command: &mut Command) {
        command.env("TZ", "UTC").env("HOME", self.directory.path()).env("XDG_STATE_HOME", self.state());
    }

    /// Starts the migration.
    fn start(&self) -> Run {
        Run::start(self.command(), self.directory.path())
    }

    /// Runs it to its end.
    fn run(&self) -> Finished {
        self.start().finished()
    }

    /// Runs it to its end, at which everything has been transferred.
    #[track_caller]
    fn complete(&self) -> Finished {
        let finished = self.run();
        let said = finished.stdout.contains("Migration complete, ");
        let failed = finished.stdout.contains(" 0 records failed");
        assert!(finished.code == Some(0) && said && failed, "{finished:#?}");
        finished
    }

    /// Asserts that nothing is lost, and nothing counted twice. Returns how many records have arrived.
    #[track_caller]
    fn expect_union(&self) -> usize {
        let (source, target) = (self.source.read(), self.target.read());
        let counted = self.counted.lock().unwrap();
        if self.deletes() {
            self.sum(&counted).expect_union(&source, &target);
        } else {
            counted.expect("the source", &source);
            self.sum(&counted).expect_merging(&self.before, &target);
        }
        target.len()
    }

    /// Asserts that the destination has everything, and that the source has nothing where it should not.
    #[track_caller]
    fn expect_done(&self) {
        let counted = self.counted.lock().unwrap();
        self.sum(&counted).expect("the destination", &self.target.read());
        let source = self.source.read();
        if self.deletes() {
            assert!(source.is_empty(), "left in the source: {:?}", source.iter().next());
        } else {
            counted.expect("the source", &source);
        }
    }

    fn sum(&self, counted: &Counted) -> Counted {
        let mut sum = self.before.clone();
        sum.add(counted);
        sum
    }
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_pyzor-migrate")
}

/// A migration that runs; it is killed when this goes.
struct Run {
    child: Child,
    directory: PathBuf,
}

impl Run {
    /// Starts it, with what it says in files of this directory.
    fn start(command: Command, directory: &Path) -> Self {
        let output = |name: &str| File::create(directory.join(name)).unwrap();
        // setpriv replaces itself by the program, which then dies with the thread of the test.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(name, value),
                None => bound.env_remove(name),
            };
        }
        bound.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        let child = bound.spawn().unwrap_or_else(|error| panic!("setpriv: {error}: run tests/setup.sh"));
        Self { child, directory: directory.to_owned() }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until it has begun to fill the destination, and not come to its end.
    #[track_caller]
    fn under_way(&mut self, target: &dyn Store) {
        let deadline = Instant::now() + LONGEST_MIGRATION;
        while target.count() == 0 {
            assert!(!self.has_ended(), "it has ended: {:#?}", self.said(None));
            assert!(Instant::now() < deadline, "nothing arrives");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!self.has_ended(), "it was too quick to be interrupted: {:#?}", self.said(None));
    }

    /// Waits for its end.
    #[track_caller]
    fn finished(mut self) -> Finished {
        let deadline = Instant::now() + LONGEST_MIGRATION;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "it does not end: {:#?}", self.said(None));
            thread::sleep(Duration::from_millis(2));
        }
        let code = self.child.try_wait().unwrap().and_then(|status| status.code());
        self.said(code)
    }

    fn said(&self, code: Option<i32>) -> Finished {
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap();
        Finished { code, stdout: read("stdout"), stderr: read("stderr") }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who reports and whitelists, and notes what was acknowledged.
struct Reporter {
    caller: Caller,
    dice: Dice,
    counted: Counted,
    numbers: u32,
}

impl Reporter {
    /// One to a server on this port, who knows records of numbers below this one.
    fn to(port: u16, numbers: u32) -> Self {
        Self { caller: Caller::to(port), dice: Dice::new(), counted: Counted::default(), numbers }
    }

    fn count(&mut self) {
        let number = match self.dice.throw(4) {
            0 => self.dice.throw(u64::from(HOT)),
            1 => 8_000_000 + self.dice.throw(u64::from(NEW)),
            _ => self.dice.throw(u64::from(self.numbers)),
        };
        let number = u32::try_from(number).unwrap();
        let kind = match number % 3 {
            // A new one is not of both kinds: a table that has counted one has times for the other.
            2 if number < self.numbers => usize::try_from(self.dice.throw(2)).unwrap(),
            kind => usize::try_from(kind % 2).unwrap(),
        };
        let digest = digest(number);
        let asked = unix_time();
        let reply = self.caller.answered(["report", "whitelist"][kind], &[&digest]);
        assert_eq!(reply.code(), 200, "{}", reply.0.escape_ascii());
        self.counted.acknowledge(&digest, kind, asked, unix_time());
    }
}

/// Callers who count into the source, and stop for a moment when that is looked at.
#[derive(Default)]
struct Traffic {
    over: StopFlag,
    quiet: RwLock<()>,
}

impl Traffic {
    /// Counts until it is over.
    fn flow(&self, port: u16, scene: &Scene) {
        let mut reporter = Reporter::to(port, scene.next());
        while !self.over.is_set() {
            let busy = self.quiet.read().unwrap();
            reporter.count();
            scene.counted.lock().unwrap().add(&std::mem::take(&mut reporter.counted));
            drop(busy);
            // The source is to be counted into, and not to be busy with that alone.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Does this while nobody counts.
    fn pause<T>(&self, act: impl FnOnce() -> T) -> T {
        let _quiet = self.quiet.write().unwrap();
        act()
    }
}

/// Lets a server count so often into a source that cannot be shared with it.
fn count_alone(scene: &Scene, times: u32) {
    let server = scene.source.home().start();
    let mut reporter = Reporter::to(server.port(), scene.next());
    (0..times).for_each(|_| reporter.count());
    scene.counted.lock().unwrap().add(&reporter.counted);
    assert!(server.stop().success());
}

/// What became of the migrations of a test.
#[derive(Default)]
struct Seen {
    /// How many had come to their end before.
    late: u32,
    /// When in milliseconds each kill came, and how many records were in the destination then.
    kills: Vec<(u64, usize)>,
}

/// Kills migrations at random moments, and looks after each kill whether everything is still there. `whole` is
/// how long one takes while nobody counts.
fn kill_at_random(scene: &Scene, traffic: &Traffic, whole: Duration) -> Seen {
    let mut dice = Dice::new();
    let mut seen = Seen::default();
    for _ in 0..kills() {
        if !scene.source.is_shared() {
            count_alone(scene, 100);
        }
        traffic.pause(|| scene.fill(to_move()));
        let mut run = scene.start();
        let mut delay = dice.throw(whole.as_micros().try_into().unwrap());
        if scene.source.is_shared() && dice.throw(3) == 0 {
            // While somebody counts, it goes through the source again and again.
            delay += dice.throw(4_000_000);
        }
        thread::sleep(Duration::from_micros(delay));
        seen.late += u32::from(run.has_ended());
        drop(run);
        seen.kills.push((delay / 1000, traffic.pause(|| scene.expect_union())));
    }
    seen
}

fn survives_kills(scene: &Scene) {
    let start = Instant::now();
    scene.complete();
    let whole = start.elapsed();
    scene.expect_done();
    let traffic = Traffic::default();
    let seen = if scene.source.is_shared() {
        let server = scene.source.home().start();
        let seen = thread::scope(|scope| {
            let _ends = traffic.over.set_on_drop();
            let (traffic, port) = (&traffic, server.port());
            for _ in 0..CALLERS {
                scope.spawn(move || traffic.flow(port, scene));
            }
            kill_at_random(scene, traffic, whole)
        });
        assert!(server.stop().success());
        seen
    } else {
        let seen = kill_at_random(scene, &traffic, whole);
        count_alone(scene, 100);
        seen
    };
    scene.complete();
    scene.expect_done();
    // Once more changes nothing.
    scene.complete();
    scene.expect_done();
    let counted = scene.counted.lock().unwrap();
    println!(
        "{} to {} {}: kills after so many milliseconds, with so many records in the destination: {:?}; {} too late; a \
         run without a kill took {} ms; at the end {} digests with {} reports and whitelistings",
        scene.source.engine(),
        scene.target.engine(),
        scene.arguments[0],
        seen.kills,
        seen.late,
        whole.as_millis(),
        counted.digests(),
        counted.total()
    );
}

/// Tests of each pair, by their names.
macro_rules! pairs {
    ($($moving:ident, $merging:ident: $from:literal to $to:literal;)*) => { $(
        #[test]
        fn $moving() {
            survives_kills(&Scene::new($from, $to, to_move(), &["--delete"]).journalled());
        }

        #[test]
        fn $merging() {
            survives_kills(&Scene::new($from, $to, to_move(), &[]).merging().journalled());
        }
    )* };
}

pairs! {
    moving_from_gdbm_to_redis_survives_kills, merging_gdbm_into_redis_survives_kills: "gdbm" to "redis";
    moving_from_redis_to_gdbm_survives_kills, merging_redis_into_gdbm_survives_kills: "redis" to "gdbm";
    moving_from_redis_to_mysql_survives_kills, merging_redis_into_mysql_survives_kills: "redis" to "mysql";
    moving_from_mysql_to_redis_survives_kills, merging_mysql_into_redis_survives_kills: "mysql" to "redis";
    moving_from_mysql_to_gdbm_survives_kills, merging_mysql_into_gdbm_survives_kills: "mysql" to "gdbm";
    moving_from_gdbm_to_gdbm_survives_kills, merging_gdbm_into_gdbm_survives_kills: "gdbm" to "gdbm";
    moving_from_texts_to_redis_survives_kills, merging_texts_into_redis_survives_kills: "redis_v0" to "redis";
}

#[test]
fn uniting_two_databases_into_one_survives_kills() {
    survives_kills(&Scene::new("redis", "mysql", to_move(), &["--delete"]).merging().journalled());
}

#[test]
fn what_changes_all_the_time_is_left_to_a_run_without_a_server() {
    let scene = Scene::new("redis", "gdbm", 1000, &["--delete"]).journalled();
    let server = scene.source.home().start();
    let traffic = Traffic::default();
    thread::scope(|scope| {
        let _ends = traffic.over.set_on_drop();
        let (traffic, scene, port) = (&traffic, &scene, server.port());
        scope.spawn(move || traffic.flow(port, scene));
        let finished = scene.run();
        let said = finished.stdout.contains(" 0 records failed\n")
            && finished.stdout.contains(" left in the source, ");
        assert!(finished.code == Some(1) && said, "{finished:#?}");
        traffic.pause(|| scene.expect_union());
    });
    assert!(server.stop().success());
    scene.complete();
    scene.expect_done();
}
