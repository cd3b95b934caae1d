//! Kills of pyzor-migrate at every system call that changes files, from the creation of its journal to the end.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Home, finish, run};

/// The system calls that change files.
const CALLS: [&str; 8] =
    ["pwrite64", "write", "ftruncate", "fsync", "fdatasync", "renameat2", "linkat", "unlink"];
const KEY: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

fn record(count: u32) -> String {
    format!("1,{count},2026-11-22 05:37:12.000000,2026-11-22 05:37:12.000000,0,None,None")
}

/// Returns the command of a merge with a journal in this directory, behind other words.
fn merge(directory: &Path, source: &Home, destination: &Home, before: &[&str]) -> Command {
    let mut words = before.iter().copied().chain([env!("CARGO_BIN_EXE_pyzor-migrate")]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--se", "gdbm", "--sd"]).arg(source.path("pyzord.db"));
    command.args(["--de", "gdbm", "--dd"]).arg(destination.path("pyzord.db"));
    command.args(["--merge", "--journal", "journal"]).env("TZ", "UTC");
    command.current_dir(directory).stdin(Stdio::null());
    command
}

#[test]
fn kill_at_any_change_of_a_file_counts_no_record_twice_and_blocks_no_later_run() {
    let mut kills = 0;
    for call in CALLS {
        for number in 1.. {
            let (source, destination) = (Home::new(), Home::new());
            let directory = source.path("merge");
            fs::create_dir(&directory).unwrap();
            source.database().write(&[(KEY, record(3))]);
            destination.database().write(&[(KEY, record(10))]);
            let injection = format!("inject={call}:signal=KILL:when={number}");
            let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &injection];
            let first = run(&mut merge(&directory, &source, &destination, &before), b"");
            let finished = finish(merge(&directory, &source, &destination, &[]));
            assert_eq!(finished.code, Some(0), "{call} {number}: {finished:?}");
            let stored = destination.database().record(KEY);
            assert!(stored.starts_with("1,13,"), "{call} {number}: {stored}");
            let left = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(".new-")).collect();
            assert!(left.is_empty(), "{call} {number}: {left:?}");
            if first.status.signal().is_none() {
                assert!(first.status.success(), "{call} {number}: {first:?}");
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 20, "only {kills} kills");
}
