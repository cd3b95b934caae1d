//! pyzor-migrate: what arrives where, what is said of it, and what is left alone.
//!
//! A database is filled and looked at by other programs than ours: Debian's Python, `redis-cli`,
//! `mariadb`. A pair of engines joins the battery by one line in `pairs`.

mod ages;
mod deletion;
mod durability;
mod gdbm_files;
mod interrupted;
mod merge;
mod options;
mod orders;
mod outliving;
mod pairs;
mod places;
mod refusals;
mod served;
mod sides;
mod verification;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::tz::TimeZone;
use tempfile::TempDir;

use crate::harness::{Finished, finish, run};

/// The password of every server here. No run of the program may say it, whatever it is asked to do.
const PASSWORD: &str = "Hush0NeverShown";

/// Some moment of the past, in microseconds since the epoch; in New York it is soon after the clocks were put
/// forward.
const THEN: i64 = 1_300_000_000 * SECOND;
const SECOND: i64 = 1_000_000;

/// Zones in which every pair is tried. Texts and gdbm files have local dates.
const ZONES: [&str; 2] = ["UTC", "America/New_York"];

/// How often something was said of a digest, and when first and last, in microseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: i64,
    first: Option<i64>,
    last: Option<i64>,
}

/// A tally with both times.
const fn tally(count: i64, first: i64, last: i64) -> Tally {
    Tally { count, first: Some(first), last: Some(last) }
}

/// Reports and whitelistings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    reports: Tally,
    whitelists: Tally,
}

impl Record {
    /// A record that was only reported, so often.
    const fn reported(count: i64) -> Self {
        let none = Tally { count: 0, first: None, last: None };
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists: none }
    }

    /// A record whose fields all differ.
    const fn full(count: i64) -> Self {
        let whitelists = tally(count.saturating_add(1), THEN + 2 * SECOND, THEN + 3 * SECOND);
        Self { reports: tally(count, THEN, THEN + SECOND), whitelists }
    }

    /// Both together: the sum of the counts, the earliest first and the latest last times.
    fn and(self, other: Self) -> Self {
        let both = |a: Tally, b: Tally| Tally {
            count: a.count.saturating_add(b.count),
            first: a.first.into_iter().chain(b.first).min(),
            last: a.last.max(b.last),
        };
        Self {
            reports: both(self.reports, other.reports),
            whitelists: both(self.whitelists, other.whitelists),
        }
    }
}

/// What a database holds, as another program shows it: escaped texts by escaped keys, the keys as they are
/// stored.
type Content = BTreeMap<String, String>;

/// A record as somebody else may have left it.
struct Planted {
    /// A digest, or whatever else is in its place.
    key: Vec<u8>,
    /// In the words of its database.
    raw: Vec<u8>,
    /// What it says; nothing if it is damaged.
    says: Option<Record>,
}

/// A database of one engine, on either side of a migration, in a place of its own.
trait Side {
    /// An empty database; of gdbm, only where the file would be.
    fn new() -> Self
    where
        Self: Sized;

    /// One that takes keys of all kinds, and records that are damaged.
    fn lenient() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Not even an empty one, where the migration has something to create.
    fn absent() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Whether there is a file or a table.
    fn is_there(&self) -> bool {
        true
    }

    /// The engine's name.
    fn engine(&self) -> &'static str;

    /// What leads to it.
    fn dsn(&self) -> String;

    /// The largest number that it counts to.
    fn limit(&self) -> i64 {
        i64::MAX
    }

    /// Whether records expire by themselves in it.
    fn has_ttl(&self) -> bool {
        false
    }

    /// A record in the words of the database, as another program would write it.
    fn raw(&self, record: &Record, zone: &str) -> Vec<u8>;

    /// Valid records of all shapes. Digests are distinct.
    fn awkward(&self, zone: &str) -> Vec<Planted>;

    /// What is no record. It need not fit in other than a lenient database.
    fn damaged(&self) -> Vec<Vec<u8>>;

    /// Stores records in the words of the database, over those that are there.
    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]);

    /// A digest's key as it is stored.
    fn key(&self, digest: &str) -> String {
        digest.to_owned()
    }

    /// Everything in it, as its program shows it.
    fn all(&self) -> Content;

    /// How its program shows a record that the migration has stored.
    fn shows(&self, record: &Record, zone: &str) -> String;

    /// The settings by which a server uses it.
    fn settings(&self) -> String {
        format!("Engine = {}\nDigestDB = {}\n", self.engine(), self.dsn())
    }

    /// Stores whole records.
    fn plant(&self, records: &[(&str, Record)], zone: &str) {
        let raw = |(key, record): &(&str, Record)| (key.as_bytes().to_vec(), self.raw(record, zone));
        self.put(&records.iter().map(raw).collect::<Vec<_>>());
    }

    /// Asserts that this is everything in it.
    #[track_caller]
    fn expect(&self, content: &Content) {
        self.expect_when("", content);
    }

    /// The same, with what to say of the occasion.
    #[track_caller]
    fn expect_when(&self, occasion: &str, content: &Content) {
        let all = self.all();
        let differs = |key: &&String| all.get(*key) != content.get(*key);
        let keys: BTreeSet<_> = all.keys().chain(content.keys()).filter(differs).collect();
        let lines = keys
            .iter()
            .take(10)
            .map(|key| format!("{key}\n  is  {:?}\n  not {:?}\n", all.get(*key), content.get(*key)));
        assert!(
            keys.is_empty(),
            "{occasion} {} of {} records of {} differ:\n{}",
            keys.len(),
            content.len(),
            self.engine(),
            lines.collect::<String>()
        );
    }

    /// What it would show if it had been given these records.
    fn showing(&self, records: &[(&str, Record)], zone: &str) -> Content {
        records.iter().map(|(digest, record)| (self.key(digest), self.shows(record, zone))).collect()
    }
}

/// A digest of its own for each number.
fn digest(number: u32) -> String {
    // All over the key space, with letters that have two cases.
    format!("{:08x}{number:028x}cafe", number.wrapping_mul(0x9e37_79b9) | 0xa000_000a)
}

/// A moment as a local date with the fraction that it has.
fn local_date(zone: &str, micros: i64) -> String {
    let zoned = jiff::Timestamp::from_microsecond(micros).unwrap().to_zoned(TimeZone::get(zone).unwrap());
    let fraction = micros.rem_euclid(SECOND);
    let date = zoned.strftime("%Y-%m-%d %H:%M:%S");
    if fraction == 0 { date.to_string() } else { format!("{date}.{fraction:06}") }
}

/// Where the program runs: a working directory, and what it takes for the home of its user.
struct Place {
    directory: TempDir,
    zone: &'static str,
    user: Option<u32>,
}

impl Place {
    fn new() -> Self {
        Self::at("UTC")
    }

    /// A place in this time zone.
    fn at(zone: &'static str) -> Self {
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        for name in ["place", "state", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory, zone, user: None }
    }

    /// Lets the program run as somebody who is not root; only where the tests do.
    fn unprivileged(mut self) -> Self {
        const NOBODY: u32 = 65534;
        if nix::unistd::Uid::effective().is_root() {
            self.user = Some(NOBODY);
            let directory = self.directory.path();
            for path in [directory.to_path_buf(), self.work(), self.state(), self.home()] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            // The program itself may lie where only root may look.
            // Copied by a process of its own: one that another thread starts just now would hold the file
            // open for writing, and nobody could run it.
            let mut copy = Command::new("cp");
            copy.arg(env!("CARGO_BIN_EXE_pyzor-migrate")).arg(self.program());
            assert!(run(&mut copy, b"").status.success());
            fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
        }
        self
    }

    fn program(&self) -> PathBuf {
        match self.user {
            Some(_) => self.directory.path().join("pyzor-migrate"),
            None => env!("CARGO_BIN_EXE_pyzor-migrate").into(),
        }
    }

    /// Where it runs.
    fn work(&self) -> PathBuf {
        self.directory.path().join("place")
    }

    /// What it keeps from run to run.
    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Writes a file of the working directory.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.work().join(name), content).unwrap();
    }

    /// The program with nothing but these arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            Some(user) => {
                let user = user.to_string();
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
                command.arg(self.program());
                command
            }
            None => Command::new(self.program()),
        };
        command.args(arguments).current_dir(self.work()).stdin(Stdio::null());
        command.env("TZ", self.zone).env("HOME", self.home()).env("XDG_STATE_HOME", self.state());
        command
    }

    /// Runs it with just these arguments.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Finished {
        let finished = finish(self.command(arguments));
        for said in [&finished.stdout, &finished.stderr] {
            assert!(!said.contains(PASSWORD), "the password is shown: {finished:?}");
        }
        finished
    }

    /// Migrates one database into another one.
    #[track_caller]
    fn migrate(&self, source: &dyn Side, destination: &dyn Side, options: &[&str]) -> Finished {
        let (from, to) = (source.dsn(), destination.dsn());
        let (from_engine, to_engine) = (source.engine(), destination.engine());
        let ends = ["--se", from_engine, "--sd", &from, "--de", to_engine, "--dd", &to];
        self.run(&[&ends[..], options].concat())
    }

    /// The names of what it has kept for another run.
    fn kept(&self) -> Vec<PathBuf> {
        let directory = self.state().join("pyzor-migrate");
        let entries =
            fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        entries.unwrap_or_default()
    }
}

/// What the program says on its standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// Records transferred or compared, and failed or different; none if it did not come to an end.
    complete: Option<(u64, u64)>,
    /// The keys of the records that failed, or differed.
    named: BTreeSet<String>,
    skipped: u64,
    expired: u64,
    deleted: u64,
    before: u64,
    /// Only a dry run says how many records would be put in the place of others or added to them.
    met: u64,
    says_clamped: bool,
    says_no_ttl: bool,
}

/// The number at the beginning of a line.
fn leading_number(line: &str) -> u64 {
    let digits = line.split(' ').next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no number in {line:?}"))
}

/// The two numbers of a closing line.
fn numbers(line: &str, frame: [&str; 3]) -> Option<(u64, u64)> {
    let (first, rest) = line.strip_prefix(frame[0])?.split_once(frame[1])?;
    Some((first.parse().ok()?, rest.strip_suffix(frame[2])?.parse().ok()?))
}

/// A line that says how long it took and how many records a second that was, with a comma between thousands.
#[track_caller]
fn expect_rate(line: &str) {
    let (seconds, rate) = line.split_once(" s, ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0, "{line:?}");
    let digits = rate.strip_suffix(" records a second").unwrap();
    let mut groups = digits.split(',');
    assert!(
        (1..=3).contains(&groups.next().unwrap().len()) && groups.all(|group| group.len() == 3),
        "{line:?}"
    );
}

const MIGRATED: [&str; 3] =
    ["Migration complete, ", " records transferred successfully, ", " records failed"];
const DRY: [&str; 3] = ["Dry run complete, ", " records would be transferred, ", " records failed"];
const VERIFIED: [&str; 3] = ["Verification complete, ", " records compared, ", " differ"];

impl Told {
    /// Reads lines of which each must be known and none may come twice. `word` is what is said of the records
    /// that are named.
    #[track_caller]
    fn read<'a>(lines: impl Iterator<Item = &'a str>, closing: [&str; 3], word: &str) -> Self {
        let mut told = Self::default();
        let mut seen = BTreeSet::new();
        for line in lines {
            if let Some(rest) = line.strip_prefix("Record ") {
                assert_eq!(told.complete, None, "a record after the end: {line:?}");
                let (key, text) =
                    rest.split_once(word).unwrap_or_else(|| panic!("it is not said to have{word} {line:?}"));
                assert!(!text.trim().is_empty(), "no reason: {line:?}");
                // Whether the key of a Redis is shown whole is left open; how quotes are is another test's.
                let key = key.rsplit('.').next().unwrap().replace("\\'", "'");
                assert!(told.named.insert(key), "twice: {line:?}");
                continue;
            }
            if let Some(numbers) = numbers(line, closing) {
                assert_eq!(told.complete.replace(numbers), None, "twice: {line:?}");
                continue;
            }
            assert!(told.complete.is_some(), "before the closing line: {line:?}");
            let kind = if line.contains("clamped") {
                told.says_clamped = true;
                "clamped"
            } else if line.contains("no TTL") {
                told.says_no_ttl = true;
                "no TTL"
            } else if line.ends_with("skipped: not digests") {
                told.skipped = leading_number(line);
                "skipped"
            } else if line.ends_with("left out: expired") {
                told.expired = leading_number(line);
                "expired"
            } else if line.ends_with("deleted from the source") {
                told.deleted = leading_number(line);
                "deleted"
            } else if line.ends_with("transferred before") {
                told.before = leading_number(line);
                "before"
            } else if line.ends_with(" ones that are there") {
                told.met = leading_number(line);
                "met"
            } else if line.ends_with(" records a second") {
                expect_rate(line);
                "rate"
            } else {
                panic!("an unknown line: {line:?}")
            };
            assert!(seen.insert(kind), "twice: {line:?}");
        }
        told
    }
}

/// What a whole run without trouble of its own says; the number and the names of the records that failed
/// agree, and so do they with the exit code.
#[track_caller]
fn told(finished: &Finished, closing: [&str; 3], word: &str) -> Told {
    // Beside errors and warnings it may say what it has left somewhere.
    let is_note = |line: &str| {
        let note = line.strip_prefix("pyzor-migrate: note: ");
        note.is_some_and(|note| note.contains("has been created") || note.contains("is remembered in "))
    };
    assert!(finished.stderr.lines().all(is_note), "{finished:?}");
    let told = Told::read(finished.stdout.lines(), closing, word);
    let (_, failed) = told.complete.unwrap_or_else(|| panic!("no closing line: {finished:?}"));
    assert_eq!(failed, told.named.len() as u64, "{finished:?}");
    assert_eq!(finished.code, Some(i32::from(failed > 0)), "{finished:?}");
    told
}

impl Finished {
    /// What a migration says that has come to its end.
    #[track_caller]
    fn migrated(&self) -> Told {
        told(self, MIGRATED, " failed: ")
    }

    /// What a dry run says.
    #[track_caller]
    fn would(&self) -> Told {
        told(self, DRY, " failed: ")
    }

    /// What a verification alone says.
    #[track_caller]
    fn verified(&self) -> Told {
        told(self, VERIFIED, " differs: ")
    }

    /// Asserts that so many records, and nothing else, arrived in this database.
    #[track_caller]
    fn expect_plain(&self, destination: &dyn Side, transferred: u64) {
        let expected =
            Told { complete: Some((transferred, 0)), says_no_ttl: destination.has_ttl(), ..Told::default() };
        assert_eq!(self.migrated(), expected, "{self:?}");
    }

    /// Asserts that it did nothing but say why on one line, with all these texts in it.
    #[track_caller]
    fn expect_refusal(&self, texts: &[&str]) {
        let whole = self.stderr.ends_with('\n') && self.stderr.lines().count() == 1;
        let all = texts.iter().all(|text| self.stderr.to_lowercase().contains(&text.to_lowercase()));
        let begins = self.stderr.starts_with("pyzor-migrate: error: ");
        assert!(
            self.code == Some(1) && self.stdout.is_empty() && begins && whole && all,
            "expected exit code 1 and one line with {texts:?}: {self:?}"
        );
    }
}

/// All files below a directory with what is in them and when that was changed.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else if path.is_file() {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            all.insert(path.clone(), (fs::read(&path).unwrap(), changed));
        }
    }
    all
}
