//! Two databases and a migration between them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::counted::{Content, Counted};
use super::stores::{Store, store};
use tempfile::TempDir;

use super::run::Run;
use super::{digest, records};
use crate::harness::Finished;

/// Two databases, their expected content, and the migration between them.
pub(crate) struct Scene {
    pub(crate) source: Box<dyn Store>,
    pub(crate) target: Box<dyn Store>,
    pub(crate) directory: TempDir,
    pub(crate) arguments: Vec<String>,
    /// Everything counted into the source, and the content of the destination before.
    pub(crate) counted: Mutex<Counted>,
    pub(crate) before: Counted,
    /// The first number that no record of the source has.
    pub(crate) next: AtomicU32,
}

impl Scene {
    /// Creates a source with this number of records, an empty destination, and these options.
    pub(crate) fn new(from: &str, to: &str, records: u32, arguments: &[&str]) -> Self {
        Self::between(store(from), store(to), records, arguments)
    }

    /// Creates a scene of these two databases.
    pub(crate) fn between(
        source: Box<dyn Store>,
        target: Box<dyn Store>,
        records: u32,
        arguments: &[&str],
    ) -> Self {
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
    pub(crate) fn merging(mut self) -> Self {
        self.arguments.push("--merge".to_owned());
        self.with_before()
    }

    /// Adds records to the destination, some of which are also in the source.
    pub(crate) fn with_before(mut self) -> Self {
        // The same digests with other counts and times.
        let mine: Vec<String> = (0..self.next()).step_by(4).chain(9_000_000..9_001_000).map(digest).collect();
        let theirs = records(7..7 + u32::try_from(mine.len()).unwrap());
        let before: Content = mine.into_iter().zip(theirs.into_values()).collect();
        self.target.add(&before);
        self.before.store(&before);
        self
    }

    /// Adds `--journal` with a file of this scene.
    pub(crate) fn journalled(mut self) -> Self {
        let journal = self.journal().display().to_string();
        self.arguments.extend(["--journal".to_owned(), journal]);
        self
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// The directory of default journals.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn deletes(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--delete")
    }

    /// Stores this number of further records in the source.
    pub(crate) fn fill(&self, number: u32) {
        let next = self.next();
        let content = records(next..next + number);
        self.source.add(&content);
        self.counted.lock().unwrap().store(&content);
        self.next.store(next + number, Ordering::Relaxed);
    }

    pub(crate) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// Returns the command for a migration from another source.
    pub(crate) fn command_from(&self, engine: &str, dsn: &str) -> Command {
        let mut command = Command::new(program());
        command.args(["--se", engine, "--sd", dsn]);
        command.args(["--de", self.target.engine(), "--dd", &self.target.dsn()]).args(&self.arguments);
        self.surround(&mut command);
        command
    }

    pub(crate) fn command(&self) -> Command {
        self.command_from(self.source.engine(), &self.source.dsn())
    }

    /// Sets the environment of a command to directories of this scene.
    pub(crate) fn surround(&self, command: &mut Command) {
        command.env("TZ", "UTC").env("HOME", self.directory.path()).env("XDG_STATE_HOME", self.state());
    }

    /// Starts the migration.
    pub(crate) fn start(&self) -> Run {
        Run::start(self.command(), self.directory.path())
    }

    /// Runs the migration to its end.
    pub(crate) fn run(&self) -> Finished {
        self.start().finished()
    }

    /// Runs the migration to its end, and asserts that everything has been transferred.
    #[track_caller]
    pub(crate) fn complete(&self) -> Finished {
        let finished = self.run();
        let said = finished.stdout.contains("Migration complete, ");
        let failed = finished.stdout.contains(" 0 records failed");
        assert!(finished.code == Some(0) && said && failed, "{finished:#?}");
        finished
    }

    /// Asserts that nothing is lost or counted twice, and returns the number of records in the destination.
    #[track_caller]
    pub(crate) fn expect_union(&self) -> usize {
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

    /// Asserts that the destination has everything, and that a move has emptied the source.
    #[track_caller]
    pub(crate) fn expect_done(&self) {
        let counted = self.counted.lock().unwrap();
        self.sum(&counted).expect("the destination", &self.target.read());
        let source = self.source.read();
        if self.deletes() {
            assert!(source.is_empty(), "left in the source: {:?}", source.iter().next());
        } else {
            counted.expect("the source", &source);
        }
    }

    pub(crate) fn sum(&self, counted: &Counted) -> Counted {
        let mut sum = self.before.clone();
        sum.add(counted);
        sum
    }
}

pub(super) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_pyzor-migrate")
}
