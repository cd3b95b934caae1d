//! Directories and environment in which the program runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::PASSWORD;
use super::side::Side;
use crate::harness::{Finished, finish, run};

/// A working directory, a home directory and a state directory for the program.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) zone: &'static str,
    pub(crate) user: Option<u32>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::at("UTC")
    }

    /// Creates the directories; the program will run in this time zone.
    pub(crate) fn at(zone: &'static str) -> Self {
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        for name in ["place", "state", "home"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory, zone, user: None }
    }

    /// Runs the program as `nobody` if the tests run as root.
    pub(crate) fn unprivileged(mut self) -> Self {
        const NOBODY: u32 = 65534;
        if nix::unistd::Uid::effective().is_root() {
            self.user = Some(NOBODY);
            let directory = self.directory.path();
            for path in [directory.to_path_buf(), self.work(), self.state(), self.home()] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            // The program may be in a directory that only root can read, so it is copied. A separate process copies
            // it: otherwise a process that another thread forks meanwhile would hold the copy open for writing, and
            // the copy could not be executed.
            let mut copy = Command::new("cp");
            copy.arg(env!("CARGO_BIN_EXE_pyzor-migrate")).arg(self.program());
            assert!(run(&mut copy, b"").status.success());
            fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
        }
        self
    }

    pub(crate) fn program(&self) -> PathBuf {
        match self.user {
            Some(_) => self.directory.path().join("pyzor-migrate"),
            None => env!("CARGO_BIN_EXE_pyzor-migrate").into(),
        }
    }

    /// The working directory.
    pub(crate) fn work(&self) -> PathBuf {
        self.directory.path().join("place")
    }

    /// The state directory, for default journals.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Writes a file in the working directory.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.work().join(name), content).unwrap();
    }

    /// Returns the command with just these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
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

    /// Runs the program with just these arguments.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        let finished = finish(self.command(arguments));
        for said in [&finished.stdout, &finished.stderr] {
            assert!(!said.contains(PASSWORD), "the password is shown: {finished:?}");
        }
        finished
    }

    /// Migrates one database to another.
    #[track_caller]
    pub(crate) fn migrate(&self, source: &dyn Side, destination: &dyn Side, options: &[&str]) -> Finished {
        let (from, to) = (source.dsn(), destination.dsn());
        let (from_engine, to_engine) = (source.engine(), destination.engine());
        let ends = ["--se", from_engine, "--sd", &from, "--de", to_engine, "--dd", &to];
        self.run(&[&ends[..], options].concat())
    }

    /// The default journals that have been kept for another run.
    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        let directory = self.state().join("pyzor-migrate");
        let entries =
            fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        entries.unwrap_or_default()
    }
}
