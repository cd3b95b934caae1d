//! Temporary directories whose processes are killed when they are dropped.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::process::lives;

/// The environment variable that marks the processes of a directory.
const MARK: &str = "PYZORD_TEST_DIRECTORY";

/// A temporary directory. Its marked processes are killed before it is removed.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Marks a command as one of this directory, with UTC as the time zone and without input.
    pub(super) fn mark(&self, mut command: Command) -> Command {
        command.env(MARK, self.path()).env_remove("TZ").stdin(Stdio::null());
        command
    }

    /// Returns all running processes that are marked as those of this directory.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.path().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let marked = |pid: &Pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        numbers.map(Pid::from_raw).filter(marked).filter(|pid| lives(*pid)).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for pid in self.processes() {
            // The process may have exited.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
