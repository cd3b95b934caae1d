//! Running servers, asked through sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Account, Caller, Home, PATIENCE, Process, Reply, eventually, unix_time};

/// A running server that is a child of the tests. It is stopped when this goes, and what it has said is printed
/// when the test fails. A detached server is a [`Process`].
pub(crate) struct Server {
    child: Child,
    address: &'static str,
    port: u16,
    home: Home,
    /// Whether it is given the time to stop safely when this goes.
    stops_safely: bool,
}

impl Server {
    /// Starts it by a command of the homedir, with its output in files beside that. It is killed when this goes.
    pub(crate) fn start(home: &Home, mut command: Command) -> Self {
        command.stdout(home.output("stdout"));
        Self::spawn(home, command)
    }

    /// Starts it by a command of the homedir, with this as its standard output. It is killed when this goes.
    pub(crate) fn start_with_stdout(home: &Home, mut command: Command, stdout: OwnedFd) -> Self {
        command.stdout(stdout);
        Self::spawn(home, command)
    }

    fn spawn(home: &Home, mut command: Command) -> Self {
        let child = command.stderr(home.output("stderr")).spawn().unwrap();
        Self { child, address: "127.0.0.1", port: home.port(), home: home.clone(), stops_safely: false }
    }

    /// Waits until this process answers; returns how it ended when it does so instead.
    pub(super) fn attend(
        child: Child,
        address: &'static str,
        port: u16,
        home: Home,
    ) -> Result<Self, ExitStatus> {
        let mut server = Self { child, address, port, home, stops_safely: true };
        server.wait_until_ready().map(|()| server)
    }

    fn wait_until_ready(&mut self) -> Result<(), ExitStatus> {
        eventually("a reply of the server", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(Err(status));
            }
            let socket = self.socket();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            // Whatever it answers, it serves.
            let asked = socket.send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n");
            asked.and_then(|_| socket.recv(&mut [0; 8192])).is_ok().then_some(Ok(()))
        })
    }

    /// Waits until it answers this caller; it must not end before that.
    #[track_caller]
    pub(crate) fn serves(&mut self, caller: &mut Caller) {
        eventually("a reply", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it has ended: {status}");
            }
            caller.ask("ping", &[], Duration::from_millis(100))
        });
    }

    /// The port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process, seen from outside.
    pub(crate) fn process(&self) -> Process {
        Process::new(Pid::from_raw(self.child.id().try_into().unwrap()))
    }

    /// Where it lives.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// A socket of one's own that talks to the server on the loopback address of its family.
    pub(crate) fn socket(&self) -> UdpSocket {
        let server = match self.address {
            "0.0.0.0" => Ipv4Addr::LOCALHOST.into(),
            "::" => "::1".parse().unwrap(),
            address => address.parse().unwrap(),
        };
        self.socket_to(server)
    }

    /// A socket of one's own that talks to the server at this address.
    pub(crate) fn socket_to(&self, server: IpAddr) -> UdpSocket {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(server, self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends one datagram and returns the reply; panics when there is none.
    pub(crate) fn ask(&self, datagram: impl AsRef<[u8]>) -> Vec<u8> {
        ask_on(&self.socket(), datagram)
    }

    /// Asks and compares the whole reply.
    #[track_caller]
    pub(crate) fn expect(&self, datagram: impl AsRef<[u8]>, reply: impl AsRef<[u8]>) {
        let got = self.ask(&datagram);
        assert!(
            got == reply.as_ref(),
            "asked    {}\ngot      {}\nexpected {}",
            datagram.as_ref().escape_ascii(),
            got.escape_ascii(),
            reply.as_ref().escape_ascii()
        );
    }

    /// Asks anonymously for an operation on these digests, and returns the reply.
    pub(crate) fn request(&self, operation: &str, digests: &[&str]) -> Reply {
        Reply(self.ask(format!("{}PV: 2.1\nThread: 3000\n\n", operation_headers(operation, digests))))
    }

    /// Asks as this account for an operation on these digests, and returns the reply.
    pub(crate) fn request_as(&self, account: &Account, operation: &str, digests: &[&str]) -> Reply {
        let headers = format!("{}Thread: 3000\nPV: 2.1\n", operation_headers(operation, digests));
        Reply(self.ask(account.sign(&headers, unix_time())))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Stops it safely and returns how it ended; panics when that takes too long.
    #[track_caller]
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended, and returns how.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the end of a server", || child.try_wait().unwrap())
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "the server's end so far: {:?}\n{}",
                self.child.try_wait(),
                self.home.everything_said()
            );
        }
        if self.stops_safely && self.is_running() {
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + PATIENCE;
            while self.is_running() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn operation_headers(operation: &str, digests: &[&str]) -> String {
    let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
    format!("Op: {operation}\n{digests}")
}

/// Sends one datagram on a connected socket and returns what comes back.
pub(crate) fn ask_on(socket: &UdpSocket, datagram: impl AsRef<[u8]>) -> Vec<u8> {
    socket.send(datagram.as_ref()).unwrap();
    let mut reply = vec![0; 65_536];
    match socket.recv(&mut reply) {
        Ok(length) => reply.truncate(length),
        Err(error) => panic!("no reply to {}: {error}", datagram.as_ref().escape_ascii()),
    }
    reply
}
