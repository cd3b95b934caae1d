//! What the system says of processes.

use std::fs;
use std::path::Path;
use std::process::{self, Command};

/// Lets this process, and all that it starts from now on, run on these processors only.
pub(crate) fn pin(processors: &str) {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", "--pid", processors, &process::id().to_string()]);
    let output = taskset.output().expect("taskset is missing: run tests/setup.sh");
    assert!(
        output.status.success(),
        "two processors are needed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts something on these processors.
pub(crate) fn pinned<T>(processors: &str, start: impl FnOnce() -> T) -> T {
    pin(processors);
    let started = start();
    pin(super::OTHERS);
    started
}

/// A process and all that descend from it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        next += 1;
    }
    family
}

/// The processor time that these have used, in seconds.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    const TICKS: f64 = 100.0;
    let of_one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The program's name, in parentheses, may have blanks.
        let fields: Vec<f64> = text
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)
    };
    pids.iter().map(of_one).sum::<f64>() / TICKS
}

/// The resident memory of a process in KiB, without the pages of this file, and those alone.
pub(crate) fn memory(pid: u32, file: &Path) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut own, mut mapped, mut is_file) = (0, 0, false);
    let file = file.display().to_string();
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
            *(if is_file { &mut mapped } else { &mut own }) += size;
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_file = line.ends_with(&file);
        }
    }
    (own, mapped)
}
