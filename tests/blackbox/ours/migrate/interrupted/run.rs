//! A running migration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::stores::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::Finished;

/// Time limit for a migration.
pub(crate) const LONGEST_MIGRATION: Duration = Duration::from_secs(240);

/// A running migration, killed on drop.
pub(crate) struct Run {
    pub(crate) child: Child,
    pub(crate) directory: PathBuf,
}

impl Run {
    /// Starts a migration, with its output in files in this directory.
    pub(crate) fn start(command: Command, directory: &Path) -> Self {
        let output = |name: &str| File::create(directory.join(name)).unwrap();
        // setpriv executes the program, which is killed when the thread of the test exits.
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

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until the destination has records, and returns whether the migration is still running.
    #[track_caller]
    pub(crate) fn under_way(&mut self, target: &dyn Store) {
        let deadline = Instant::now() + LONGEST_MIGRATION;
        while target.count() == 0 {
            assert!(!self.has_ended(), "it has ended: {:#?}", self.said(None));
            assert!(Instant::now() < deadline, "nothing arrives");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!self.has_ended(), "the migration ended too early to be interrupted: {:#?}", self.said(None));
    }

    /// Waits for the end of the migration.
    #[track_caller]
    pub(crate) fn finished(mut self) -> Finished {
        let deadline = Instant::now() + LONGEST_MIGRATION;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "it does not end: {:#?}", self.said(None));
            thread::sleep(Duration::from_millis(2));
        }
        let code = self.child.try_wait().unwrap().and_then(|status| status.code());
        self.said(code)
    }

    pub(crate) fn said(&self, code: Option<i32>) -> Finished {
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap();
        Finished { code, stdout: read("stdout"), stderr: read("stderr") }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
