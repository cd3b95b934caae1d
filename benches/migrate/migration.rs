//! Runs `pyzor-migrate` and measures its time and memory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::arena::Arena;

/// The time and the memory of a migration of all records.
pub(crate) struct Migration {
    pub(crate) time: Duration,
    pub(crate) memory: PeakMemory,
}

/// Peak memory, in KiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct PeakMemory {
    /// With mapped pages of gdbm files, which the kernel can reclaim.
    pub(crate) all: u64,
    /// Anonymous memory only; sampled every 5 ms.
    pub(crate) own: u64,
}

impl Arena {
    fn dsn(&self, engine: &str, name: &str) -> String {
        match engine {
            "gdbm" => self.path(&format!("{name}.db")).display().to_string(),
            "redis" => {
                let redis = if name == "source" { &self.redis_source } else { &self.redis_target };
                format!("127.0.0.1,{},,0", redis.port())
            }
            _ => format!("127.0.0.1:{},pyzor,secret,pyzor,{name}", self.mariadb.port()),
        }
    }

    pub(crate) fn migrate(&self, (from, to): (&str, &str)) -> Migration {
        self.clear();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pyzor-migrate"));
        command.args(["--se", from, "--sd", &self.dsn(from, "source")]);
        command.args(["--de", to, "--dd", &self.dsn(to, "target")]);
        command.env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut memory = PeakMemory::default();
        while child.try_wait().unwrap().is_none() {
            memory.sample(child.id());
            thread::sleep(Duration::from_millis(5));
        }
        let time = start.elapsed();
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let complete = format!(
            "Migration complete, {} records transferred successfully, 0 records failed",
            self.records
        );
        assert!(
            output.status.success() && stdout.contains(&complete),
            "{from} to {to}: {stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(self.stored(to), self.records);
        Migration { time, memory }
    }
}

impl PeakMemory {
    /// Samples a process. A process that has just ended has no memory, and changes nothing.
    fn sample(&mut self, pid: u32) {
        let path = Path::new("/proc").join(pid.to_string()).join("status");
        let status = fs::read_to_string(path).unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.all = field("VmHWM:").unwrap_or(self.all);
        self.own = self.own.max(field("RssAnon:").unwrap_or_default());
    }
}
