//! Processes, controlled by signals and observed through `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// A process of any kind: a detached server, a child of the tests, or a child of either.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: Pid,
}

impl Process {
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid }
    }

    pub(crate) fn pid(self) -> Pid {
        self.pid
    }

    /// Returns the only child process.
    #[track_caller]
    pub(crate) fn child(self) -> Self {
        let children = fs::read_to_string(self.proc(&format!("task/{}/children", self.pid))).unwrap();
        Self { pid: Pid::from_raw(children.trim().parse().unwrap()) }
    }

    /// Sends a signal.
    pub(crate) fn signal(self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until the process has exited.
    #[track_caller]
    pub(crate) fn ended(self) {
        eventually("the process to exit", || (!lives(self.pid)).then_some(()));
    }

    /// Sends SIGTERM, and waits until the process has exited.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.ended();
    }

    /// Returns the path of a file in the process's directory in `/proc`.
    pub(crate) fn proc(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    /// Returns the target of each open descriptor.
    pub(crate) fn descriptors(self) -> BTreeMap<u32, String> {
        let entries = fs::read_dir(self.proc("fd")).unwrap().flatten();
        entries
            .filter_map(|entry| {
                let target = fs::read_link(entry.path()).ok()?;
                Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
            })
            .collect()
    }

    /// Returns a field of the process's `stat` file, by its number in proc(5).
    pub(crate) fn stat(self, field: usize) -> i64 {
        let line = fs::read_to_string(self.proc("stat")).unwrap();
        // The second field is a name in parentheses, which may contain blanks.
        let rest = line.rsplit_once(") ").unwrap().1;
        rest.split(' ').nth(field - 3).unwrap().parse().unwrap()
    }
}

/// Whether a process is running. A zombie is not.
pub(super) fn lives(pid: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    line.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
