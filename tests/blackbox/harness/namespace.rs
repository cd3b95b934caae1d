//! Network namespaces, which act as separate hosts joined by virtual Ethernet links.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{eventually, run};

/// A network namespace that has only a loopback device, which is up.
///
/// A process keeps the namespace alive. It exits when this value is dropped or the tests are killed, and the kernel
/// then removes the namespace with its interfaces.
pub(crate) struct Namespace {
    holder: Child,
}

/// One end of a link between two namespaces.
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) interface: &'a str,
    /// All addresses of the interface, each with its prefix length: `10.99.0.1/16`, `fd99::1/64`, `fe80::1/64`. It has
    /// a link-local address only if it is listed.
    pub(crate) addresses: &'a [&'a str],
}

impl Namespace {
    /// Creates a namespace.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let script = "ip link set lo up && echo up && exec cat";
        let mut command = Command::new("unshare");
        // cat exits when its input is closed, which also happens if the tests are killed.
        command.args(["--net", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("unshare is missing: run tests/setup.sh")
            }
            spawned => spawned.unwrap(),
        };
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "up\n" {
            let status = holder.wait().unwrap();
            panic!(
                "cannot create a network namespace ({status}): run the tests as root or with CAP_SYS_ADMIN and \
                 CAP_NET_ADMIN, and run tests/setup.sh if ip is missing"
            );
        }
        Self { holder }
    }

    /// Returns a command that runs a program in the namespace, without another process around it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file().display())).arg("--").arg(program);
        command
    }

    /// Returns a command that runs this one, with its arguments and environment, in the namespace.
    pub(crate) fn inside(&self, inner: &Command) -> Command {
        let mut command = self.command(inner.get_program());
        command.args(inner.get_args()).stdin(Stdio::null());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Runs ip(8) in the namespace with these arguments, separated by blanks, and returns its output.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = run(self.command("ip").args(arguments.split_whitespace()), b"");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Joins two namespaces by a link, and waits until both ends accept their addresses.
    #[track_caller]
    pub(crate) fn join(one: &End<'_>, other: &End<'_>) {
        one.namespace.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            one.interface,
            other.interface,
            other.namespace.holder.id()
        ));
        for End { namespace, interface, addresses } in [one, other] {
            namespace.ip(&format!("link set {interface} addrgenmode none up"));
            for address in *addresses {
                // Duplicate address detection would take a second.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {interface} {nodad}"));
            }
        }
        for End { namespace, interface, .. } in [one, other] {
            eventually("the link to be up", || {
                let tentative = namespace.ip(&format!("-6 address show dev {interface} tentative"));
                let up = namespace.ip(&format!("link show dev {interface} up")).contains("LOWER_UP");
                (tentative.is_empty() && up).then_some(())
            });
        }
    }

    /// Runs `work` on a thread in the namespace, and returns its result.
    ///
    /// Sockets that `work` opens stay in the namespace, and may be used on other threads. Processes that it starts run
    /// in the namespace, but those of [`Home::start`](super::Home::start) are killed when the thread exits.
    #[track_caller]
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.file()).unwrap();
        let work = || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn file(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The process may have exited.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
