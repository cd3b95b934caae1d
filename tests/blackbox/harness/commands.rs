//! Servers started as an operator does, in the foreground and detached, on the port of their homedir.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;

use nix::unistd::Pid;

use super::{Caller, Home, Process, eventually, finish};

impl Home {
    /// Occupies the port until the socket is dropped.
    ///
    /// Retries, because the socket that found the port free may still be open for a moment in a child of another test,
    /// between its fork and its exec.
    pub(crate) fn take_port(&self) -> UdpSocket {
        eventually("the port to be free", || UdpSocket::bind(("127.0.0.1", self.port())).ok())
    }

    /// Returns a command of the server's program without arguments.
    pub(crate) fn bare(&self) -> Command {
        self.mark(Command::new(&self.program))
    }

    /// Returns the command of a server in the foreground.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare();
        self.add_arguments(&mut command, self.port());
        command
    }

    /// Returns the command of a server in the background.
    pub(crate) fn detached(&self) -> Command {
        let mut command = self.command();
        command.args(["--detach", "/dev/null"]);
        command
    }

    /// Returns the command of a server that a line of bash starts with `exec "$@"`.
    pub(crate) fn under(&self, script: &str, detached: bool) -> Command {
        let mut command = self.mark(Command::new("bash"));
        command.args(["-c", script, "bash"]).arg(&self.program);
        self.add_arguments(&mut command, self.port());
        if detached {
            command.args(["--detach", "/dev/null"]);
        }
        command
    }

    /// Marks a command, so that its processes are killed with this homedir.
    pub(crate) fn mark(&self, command: Command) -> Command {
        self.parent.mark(command)
    }

    /// Starts a server in the background, which must succeed without output.
    #[track_caller]
    pub(crate) fn detach(&self) -> Process {
        self.detach_with(self.detached())
    }

    /// Starts a server in the background after a kill. It may report a repair, because the kill may have interrupted
    /// the write of a bucket.
    #[track_caller]
    pub(crate) fn detach_after_kill(&self) -> Process {
        let finished = finish(self.detached());
        let is_expected = finished.stderr.is_empty() || finished.stderr.contains("the original file is kept");
        assert!(finished.code == Some(0) && is_expected, "{finished:#?}{}", self.everything_said());
        self.daemon()
    }

    /// Starts a server in the background by a command with debug output.
    #[track_caller]
    pub(crate) fn detach_with_debug(&self, command: Command) -> Process {
        assert_eq!(finish(command).code, Some(0), "{}", self.everything_said());
        self.daemon()
    }

    /// Starts a server in the background by this command. Only two warnings are permitted: that it runs as root, and
    /// that a store does not answer within a second, as on a busy machine.
    #[track_caller]
    pub(crate) fn detach_with(&self, command: Command) -> Process {
        let finished = finish(command);
        let of_root = "pyzord: warning: running as root, which is not needed: set User to a dedicated user";
        let of_store = "it does not answer";
        let more = |line: &&str| {
            *line != of_root
                && !(line.starts_with("pyzord: warning: waiting for ") && line.ends_with(of_store))
        };
        let stderr: Vec<&str> = finished.stderr.lines().filter(more).collect();
        assert!(
            finished.code == Some(0) && finished.stdout.is_empty() && stderr.is_empty(),
            "{finished:#?}{}",
            self.everything_said()
        );
        self.daemon()
    }

    /// Returns the daemon that the pid file names.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Process {
        let content = self.read("pyzord.pid");
        let pid = content.strip_suffix('\n').and_then(|number| number.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the pid file holds {content:?}"));
        Process::new(Pid::from_raw(pid))
    }

    /// Returns a client of the server on the homedir's port.
    pub(crate) fn caller(&self) -> Caller {
        Caller::to(self.port())
    }

    /// Returns the number of reports of each digest according to the database.
    pub(crate) fn stored(&self) -> BTreeMap<String, i64> {
        let record = |(key, value): (Vec<u8>, Vec<u8>)| {
            let value = String::from_utf8(value).unwrap();
            let count = value.split(',').nth(1).unwrap().parse().unwrap();
            (String::from_utf8(key).unwrap(), count)
        };
        self.database().read().into_iter().map(record).collect()
    }

    /// Returns all running processes of this homedir.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        self.parent.processes()
    }

    /// Waits until no process of this homedir is running.
    #[track_caller]
    pub(crate) fn expect_no_process(&self) {
        eventually("all processes of the homedir to exit", || self.processes().is_empty().then_some(()));
    }
}
