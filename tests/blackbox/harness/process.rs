//! Processes, seen from outside through signals and `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// Any process: a detached server, a child of the tests, or a child of either.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: Pid,
}

impl Process {
    /// The process of this number.
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid }
    }

    /// Its number.
    pub(crate) fn pid(self) -> Pid {
        self.pid
    }

    /// Its only child.
    #[track_caller]
    pub(crate) fn child(self) -> Self {
        let children = fs::read_to_string(self.proc(&format!("task/{}/children", self.pid))).unwrap();
        Self { pid: Pid::from_raw(children.trim().parse().unwrap()) }
    }

    /// Sends a signal.
    pub(crate) fn signal(self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ended(self) {
        eventually("the process to end", || (!lives(self.pid)).then_some(()));
    }

    /// Ends it by TERM.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.ended();
    }

    /// A file of its directory in `/proc`.
    pub(crate) fn proc(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    /// What each of its descriptors leads to.
    pub(crate) fn descriptors(self) -> BTreeMap<u32, String> {
        let entries = fs::read_dir(self.proc("fd")).unwrap().flatten();
        entries
            .filter_map(|entry| {
                let target = fs::read_link(entry.path()).ok()?;
                Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
            })
            .collect()
    }

    /// A field of its line in `/proc`, by the number that proc(5) gives it.
    pub(crate) fn stat(self, field: usize) -> i64 {
        let line = fs::read_to_string(self.proc("stat")).unwrap();
        // The second field is a name, which may have blanks, in parentheses.
        let rest = line.rsplit_once(") ").unwrap().1;
        rest.split(' ').nth(field - 3).unwrap().parse().unwrap()
    }
}

/// Whether a process runs. One that has ended may wait long for its parent to ask how.
pub(super) fn lives(pid: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    line.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
