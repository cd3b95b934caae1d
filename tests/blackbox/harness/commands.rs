//! Servers as an operator starts them, in the foreground and detached, on the port of their homedir.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;

use nix::unistd::Pid;

use super::{Caller, Home, Process, eventually, finish};

impl Home {
    /// Takes the port, so that servers here cannot have it until the socket is dropped.
    ///
    /// The socket that found it free may still be open for a moment, in a child of another test that has been
    /// forked and has not yet become its program.
    pub(crate) fn take_port(&self) -> UdpSocket {
        eventually("the port", || UdpSocket::bind(("127.0.0.1", self.port())).ok())
    }

    /// The server's program, with nothing but the mark of this homedir.
    pub(crate) fn bare(&self) -> Command {
        self.mark(Command::new(&self.program))
    }

    /// A server in the foreground.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.bare();
        self.add_arguments(&mut command, self.port());
        command
    }

    /// A server in the background.
    pub(crate) fn detached(&self) -> Command {
        let mut command = self.command();
        command.args(["--detach", "/dev/null"]);
        command
    }

    /// A server under a line of bash that ends in `exec "$@"`, with what is to be tried around that.
    pub(crate) fn under(&self, script: &str, detached: bool) -> Command {
        let mut command = self.mark(Command::new("bash"));
        command.args(["-c", script, "bash"]).arg(&self.program);
        self.add_arguments(&mut command, self.port());
        if detached {
            command.args(["--detach", "/dev/null"]);
        }
        command
    }

    /// Marks a command as one of this homedir, with which it is ended.
    pub(crate) fn mark(&self, command: Command) -> Command {
        self.parent.mark(command)
    }

    /// Starts a server into the background, which must succeed without a word.
    #[track_caller]
    pub(crate) fn detach(&self) -> Process {
        self.detach_with(self.detached())
    }

    /// Starts a server into the background after a kill, which may have cut a bucket off in the middle: the repair
    /// then says so.
    #[track_caller]
    pub(crate) fn detach_after_kill(&self) -> Process {
        let finished = finish(self.detached());
        let told = finished.stderr.is_empty() || finished.stderr.contains("the original file is kept");
        assert!(finished.code == Some(0) && told, "{finished:#?}{}", self.everything_said());
        self.daemon()
    }

    /// Starts a server into the background by a command that makes it say everything.
    #[track_caller]
    pub(crate) fn detach_with_debug(&self, command: Command) -> Process {
        assert_eq!(finish(command).code, Some(0), "{}", self.everything_said());
        self.daemon()
    }

    /// Starts a server into the background by this command. Two warnings are let pass: of root, where the command
    /// says nothing of a user, and of a store that takes longer than a second to answer, as on a busy machine.
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

    /// The daemon that the pid file names.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Process {
        let content = self.read("pyzord.pid");
        let pid = content.strip_suffix('\n').and_then(|number| number.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the pid file holds {content:?}"));
        Process::new(Pid::from_raw(pid))
    }

    /// A caller of whatever listens on the port.
    pub(crate) fn caller(&self) -> Caller {
        Caller::to(self.port())
    }

    /// How often each digest has been reported, according to the database.
    pub(crate) fn stored(&self) -> BTreeMap<String, i64> {
        let record = |(key, value): (Vec<u8>, Vec<u8>)| {
            let value = String::from_utf8(value).unwrap();
            let count = value.split(',').nth(1).unwrap().parse().unwrap();
            (String::from_utf8(key).unwrap(), count)
        };
        self.database().read().into_iter().map(record).collect()
    }

    /// All processes of this homedir that live.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        self.parent.processes()
    }

    /// Waits until no process of this homedir lives.
    #[track_caller]
    pub(crate) fn expect_no_process(&self) {
        eventually("the end of all processes here", || self.processes().is_empty().then_some(()));
    }
}
