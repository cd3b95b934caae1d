//! Private database servers, and others: each in its own directory and on a free port of the loopback device. They are killed at
//! the end of the test, or when the process of the tests exits for any reason.

mod certificate;
mod mariadb;
pub(crate) mod mysql8;
mod prometheus;
mod redis;
mod redis_cluster;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) use certificate::Certificate;
pub(crate) use mariadb::MariaDb;
pub(crate) use prometheus::Prometheus;
pub(crate) use redis::{Redis, Sentinel};
pub(crate) use redis_cluster::RedisCluster;

use crate::harness::eventually;

/// A server process that can be killed, suspended, resumed, and started again on its data.
pub(crate) struct Service {
    directory: TempDir,
    program: &'static str,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Service {
    /// A service that is not running, with an empty directory.
    pub(crate) fn new(program: &'static str) -> Self {
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        Self { directory, program, arguments: Vec::new(), child: None }
    }

    /// Returns the directory of the service's files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sets the arguments for the next start.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// Starts the service, and waits until `ready` returns true.
    #[track_caller]
    pub(crate) fn start(&mut self, ready: impl Fn() -> bool) {
        assert!(self.child.is_none(), "{} is running already", self.program);
        let output = fs::OpenOptions::new().create(true).append(true).open(self.output()).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", self.program]).args(&self.arguments);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        self.child = Some(spawn(command));
        eventually(&format!("{} to be ready", self.program), || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!(
                    "{} has exited: {status}\n{}\nrun tests/setup.sh if it is missing",
                    self.program,
                    self.said()
                );
            }
            ready().then_some(())
        });
    }

    /// Returns the output so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output()).unwrap_or_default()).into_owned()
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the service is not running").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }

    /// Kills the service, so that it cannot write anything more.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.program, self.said());
        }
        self.kill();
    }
}

/// Starts a process from a thread that lives as long as this process, because the kernel sends the signal of
/// `--pdeathsig` when the parent thread exits, not the whole parent process.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, child) in orders {
                // The caller is waiting for the reply.
                let _ = child.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, child) = mpsc::channel();
    spawner.lock().unwrap().send((command, sender)).unwrap();
    match child.recv().unwrap() {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("setpriv is missing: run tests/setup.sh"),
        spawned => spawned.unwrap(),
    }
}
