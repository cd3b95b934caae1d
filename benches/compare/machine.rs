//! A description of the machine and of the programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::interop;
use crate::process::processors;

/// Returns a paragraph about the machine and the versions of the programs.
pub(crate) fn text() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let place = processors();
    let python =
        said(Command::new(interop("python")).args(["-c", "import sys; print(sys.version.split()[0])"]));
    let pyzor = said(Command::new(interop("python")).args(["-c", "import pyzor; print(pyzor.__version__)"]));
    let redis = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/redis-server");
    // "Redis server v=7.0.15 sha=…", "mariadbd  Ver 10.11.19-MariaDB-… for …", "rustc 1.88.0 (… …)"
    let word =
        |text: &str, number: usize| text.split_whitespace().nth(number).unwrap_or("unknown").to_owned();
    let redis = word(&said(Command::new(redis).arg("--version")), 2);
    let mariadb = word(&said(Command::new("/usr/sbin/mariadbd").arg("--version")), 2);
    let rustc = word(&said(Command::new("rustc").arg("--version")), 1);
    format!(
        "{model}, {count} processors, Linux {}. The server had processor {}, load and database had {}, and what was \
         too much came from {}. pyzord {} built by Rust {rustc}; Pyzor {pyzor} on Python {python}; Redis {}, \
         MariaDB {mariadb}.",
        kernel.trim(),
        place.server,
        place.others,
        place.apart,
        env!("CARGO_PKG_VERSION"),
        redis.trim_start_matches("v="),
    )
}

/// Returns the standard output of a program.
fn said(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}: run tests/setup.sh", command.get_program().display()));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
