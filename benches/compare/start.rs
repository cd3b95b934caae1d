//! The time to start on a million records, and the memory of servers.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Memory, memory, pinned, processors};
use crate::subject::{self, Subject};
use crate::table::median;

const TIMES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

/// Measurements that are made only once, after all rounds.
pub(crate) struct Starts {
    /// The memory of an idle server with GNU dbm, without records.
    pub(crate) idle: Memory,
    /// The memory of the server with a million records, after all loads.
    pub(crate) loaded: Memory,
    /// The time from the start of the process on a million records to the first reply to a ping, in milliseconds.
    pub(crate) milliseconds: f64,
    /// The memory of the servers with 100,000 digests, after all loads.
    pub(crate) others: Vec<(String, Memory)>,
}

pub(crate) fn measure(subjects: &[Subject]) -> Starts {
    let million = subjects.iter().find(|subject| subject.is_ours() && subject.has_million()).unwrap();
    let idle = {
        let server = pinned(&processors().server, || subject::home("").start());
        memory(&[server.pid()], Some(&server.home().path("pyzord.db")))
    };
    let others = subjects.iter().filter(|subject| subject.is_first());
    Starts {
        idle,
        loaded: million.memory(),
        milliseconds: starts(&million.file().unwrap()),
        others: others.map(|subject| (subject.name(), subject.memory())).collect(),
    }
}

/// Returns the median time of starts on a copy of this database, in milliseconds.
fn starts(database: &Path) -> f64 {
    let home = subject::home("");
    let copied = Command::new("cp").arg(database).arg(home.path("pyzord.db")).status();
    assert!(copied.unwrap().success());
    // The copy of a file in use has a reserve at its end, which the first start cuts off.
    home.start().stop();
    median(
        (0..TIMES)
            .map(|_| {
                let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                // taskset executes the server in its own process. Its millisecond is part of the time.
                let mut server = Command::new("taskset");
                server.args(["--cpu-list", &processors().server, env!("CARGO_BIN_EXE_pyzord")]);
                server.arg("--homedir").arg(home.directory()).args([
                    "-a",
                    "0.0.0.0",
                    "-p",
                    &port.to_string(),
                ]);
                server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let start = Instant::now();
                let server = Started(server.spawn().unwrap());
                wait_for_answer(port, start + PATIENCE);
                let elapsed = start.elapsed();
                drop(server);
                elapsed.as_secs_f64() * 1000.0
            })
            .collect(),
    )
}

/// A server that is stopped on drop.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap());
        // It may have exited already; then `wait_for_answer` has failed.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn wait_for_answer(port: u16, deadline: Instant) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_micros(500))).unwrap();
    let mut reply = [0; 100];
    let mut ask =
        || client.send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n").and_then(|_| client.recv(&mut reply));
    while ask().is_err() {
        assert!(Instant::now() < deadline, "the server does not answer");
    }
}
