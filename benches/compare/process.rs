//! Processor time and memory of processes, and the processors that they run on.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::OnceLock;

/// Processors, in the syntax of `taskset`.
pub(crate) struct Processors {
    /// The processor of the server.
    pub(crate) server: String,
    /// The processor of the load generator and the database.
    pub(crate) others: String,
    /// Both processors.
    pub(crate) both: String,
    /// The processor of a load generator that overloads the server, which needs a whole one: a third processor if there
    /// is one.
    pub(crate) apart: String,
}

/// Returns the first processors that this process may use. `taskset -c 2,3 make bench` selects others.
pub(crate) fn processors() -> &'static Processors {
    static PROCESSORS: OnceLock<Processors> = OnceLock::new();
    PROCESSORS.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        };
        let allowed: Vec<u32> = list.split(',').flat_map(range).collect();
        assert!(allowed.len() > 1, "two processors are needed, but this process may use only {list}");
        let [server, others, apart] =
            [allowed[0], allowed[1], *allowed.get(2).unwrap_or(&allowed[1])].map(|number| number.to_string());
        Processors { both: format!("{server},{others}"), server, others, apart }
    })
}

/// Restricts this process, and the processes that it starts from now on, to these processors.
pub(crate) fn pin(processors: &str) {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", "--pid", processors, &process::id().to_string()]);
    let output = taskset.output().expect("taskset is missing: run tests/setup.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Calls `start` while this process is restricted to these processors, so that what it starts runs on them.
pub(crate) fn pinned<T>(where_to: &str, start: impl FnOnce() -> T) -> T {
    pin(where_to);
    let started = start();
    pin(&processors().others);
    started
}

/// Returns a process and all its descendants.
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

/// Returns the processor time that these processes have used, in seconds.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    // USER_HZ, which is 100 on all common architectures.
    const TICKS: f64 = 100.0;
    let of_one = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The program's name, in parentheses, may contain blanks.
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

/// The resident memory of processes, in KiB. Pages that several of them share count once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Anonymous pages.
    pub(crate) anonymous: u64,
    /// Pages of the program, its libraries and other files.
    pub(crate) files: u64,
    /// Pages of the database's file.
    pub(crate) database: u64,
}

impl Memory {
    /// The memory without the database's file.
    pub(crate) fn own(self) -> u64 {
        self.anonymous + self.files
    }
}

/// Returns the resident memory of these processes, which must run the same program. `database` is the file to count
/// separately.
pub(crate) fn memory(pids: &[u32], database: Option<&Path>) -> Memory {
    let mut memory = Memory::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let anonymous = rollup.lines().find_map(|line| size(line, "Pss_Anon:"));
        // Proportional, because after a fork these processes share anonymous pages.
        memory.anonymous += anonymous.expect("Linux 5.4 or newer is needed");
        let (mut files, mut mapped) = (0, 0);
        let (mut is_database, mut resident) = (false, 0);
        for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
            if let Some(size) = size(line, "Rss:") {
                resident = size;
            } else if let Some(anonymous) = size(line, "Anonymous:") {
                *(if is_database { &mut mapped } else { &mut files }) += resident.saturating_sub(anonymous);
            } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
                let name = Path::new(line.splitn(6, ' ').last().unwrap_or_default().trim());
                is_database = database == Some(name);
            }
        }
        memory.files = memory.files.max(files);
        memory.database = memory.database.max(mapped);
    }
    memory
}

/// Returns the size in a line that begins with `name`.
fn size(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name).map(|text| text.trim().trim_end_matches(" kB").parse().unwrap())
}
