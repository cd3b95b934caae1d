//! What the system says of processes, and the processors that they get.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::OnceLock;

/// Processors, as `taskset` takes them.
pub(crate) struct Processors {
    /// The one that a server has for itself.
    pub(crate) server: String,
    /// The one of whoever asks it, and of the database.
    pub(crate) others: String,
    /// Both of them.
    pub(crate) both: String,
    /// Where more load comes from than can be served, which takes a whole processor: a third one, if there is.
    pub(crate) apart: String,
}

/// The first processors that this process may use: `taskset -c 2,3 make bench` leaves the others alone.
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
        assert!(allowed.len() > 1, "two processors are needed, and there is only {list}");
        let [server, others, apart] =
            [allowed[0], allowed[1], *allowed.get(2).unwrap_or(&allowed[1])].map(|number| number.to_string());
        Processors { both: format!("{server},{others}"), server, others, apart }
    })
}

/// Lets this process, and all that it starts from now on, run on these processors only.
pub(crate) fn pin(processors: &str) {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", "--pid", processors, &process::id().to_string()]);
    let output = taskset.output().expect("taskset is missing: run tests/setup.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts something on these processors.
pub(crate) fn pinned<T>(where_to: &str, start: impl FnOnce() -> T) -> T {
    pin(where_to);
    let started = start();
    pin(&processors().others);
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
    // What Linux tells programs in, whatever it counts in.
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

/// What processes hold in memory, in KiB. Pages that several of them share count once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Their own.
    pub(crate) anonymous: u64,
    /// Pages of the program, its libraries and other files.
    pub(crate) files: u64,
    /// Pages of the database's file.
    pub(crate) database: u64,
}

impl Memory {
    /// All but the database's file.
    pub(crate) fn own(self) -> u64 {
        self.anonymous + self.files
    }
}

/// What these processes, which run the same program, hold in memory; `database` is the file that is counted
/// apart, if there is one.
pub(crate) fn memory(pids: &[u32], database: Option<&Path>) -> Memory {
    let mut memory = Memory::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let anonymous = rollup.lines().find_map(|line| size(line, "Pss_Anon:"));
        // What several have after a fork is shared by these alone.
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

/// The size in a line that begins so.
fn size(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name).map(|text| text.trim().trim_end_matches(" kB").parse().unwrap())
}
