//! Running servers that are children of the tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Account, Caller, Home, PATIENCE, Process, Reply, eventually, unix_time};

/// A running server that is a child of the tests. It is stopped on drop, and its output is printed if the test fails.
/// Detached servers are a [`Process`].
pub(crate) struct Server {
    child: Child,
    address: &'static str,
    port: u16,
    home: Home,
    /// Whether a drop sends SIGTERM and waits, instead of killing the server.
    stops_safely: bool,
}

impl Server {
    /// Starts a command of the homedir, with its output in files beside the homedir. It is killed on drop.
    pub(crate) fn start(home: &Home, mut command: Command) -> Self {
        command.stdout(home.output("stdout"));
        Self::spawn(home, command)
    }

    /// Starts a command of the homedir with this standard output. It is killed on drop.
    pub(crate) fn start_with_stdout(home: &Home, mut command: Command, stdout: OwnedFd) -> Self {
        command.stdout(stdout);
        Self::spawn(home, command)
    }

    fn spawn(home: &Home, mut command: Command) -> Self {
        let child = command.stderr(home.output("stderr")).spawn().unwrap();
        Self { child, address: "127.0.0.1", port: home.port(), home: home.clone(), stops_safely: false }
    }

    /// Waits until a process answers, or returns its exit status if it exits before.
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
            // Any reply will do.
            let asked = socket.send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n");
            asked.and_then(|_| socket.recv(&mut [0; 8192])).is_ok().then_some(Ok(()))
        })
    }

    /// Waits until the server answers this client; panics if it exits before.
    #[track_caller]
    pub(crate) fn serves(&mut self, caller: &mut Caller) {
        eventually("a reply", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server has exited: {status}");
            }
            caller.ask("ping", &[], Duration::from_millis(100))
        });
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn process(&self) -> Process {
        Process::new(Pid::from_raw(self.child.id().try_into().unwrap()))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Returns a new socket that is connected to the server, through loopback if it listens on all addresses.
    pub(crate) fn socket(&self) -> UdpSocket {
        let server = match self.address {
            "0.0.0.0" => Ipv4Addr::LOCALHOST.into(),
            "::" => "::1".parse().unwrap(),
            address => address.parse().unwrap(),
        };
        self.socket_to(server)
    }

    /// Returns a new socket that is connected to the server at this address.
    pub(crate) fn socket_to(&self, server: IpAddr) -> UdpSocket {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(server, self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends one datagram and returns the reply; panics if there is none.
    pub(crate) fn ask(&self, datagram: impl AsRef<[u8]>) -> Vec<u8> {
        ask_on(&self.socket(), datagram)
    }

    /// Sends one datagram and asserts that the whole reply is as expected.
    #[track_caller]
    pub(crate) fn expect(&self, datagram: impl AsRef<[u8]>, reply: impl AsRef<[u8]>) {
        let got = self.ask(&datagram);
        assert!(
            got == reply.as_ref(),
            "sent     {}\ngot      {}\nexpected {}",
            datagram.as_ref().escape_ascii(),
            got.escape_ascii(),
            reply.as_ref().escape_ascii()
        );
    }

    /// Sends an anonymous request and returns the reply.
    pub(crate) fn request(&self, operation: &str, digests: &[&str]) -> Reply {
        Reply(self.ask(format!("{}PV: 2.1\nThread: 3000\n\n", operation_headers(operation, digests))))
    }

    /// Sends a request that is signed with this account and returns the reply.
    pub(crate) fn request_as(&self, account: &Account, operation: &str, digests: &[&str]) -> Reply {
        let headers = format!("{}Thread: 3000\nPV: 2.1\n", operation_headers(operation, digests));
        Reply(self.ask(account.sign(&headers, unix_time())))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Sends SIGTERM and waits for the exit status.
    #[track_caller]
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for the exit status.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the server to exit", || child.try_wait().unwrap())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "exit status of the server: {:?}\n{}",
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
        // The server may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn operation_headers(operation: &str, digests: &[&str]) -> String {
    let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
    format!("Op: {operation}\n{digests}")
}

/// Sends one datagram on a connected socket and returns the reply; panics if there is none.
pub(crate) fn ask_on(socket: &UdpSocket, datagram: impl AsRef<[u8]>) -> Vec<u8> {
    socket.send(datagram.as_ref()).unwrap();
    let mut reply = vec![0; 65_536];
    match socket.recv(&mut reply) {
        Ok(length) => reply.truncate(length),
        Err(error) => panic!("no reply to {}: {error}", datagram.as_ref().escape_ascii()),
    }
    reply
}
