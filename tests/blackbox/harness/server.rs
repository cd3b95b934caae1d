//! A running server, asked through sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Account, Home, PATIENCE, unix_time};

/// A running server; it is stopped when this goes, and what it has said is printed when the test fails.
pub(crate) struct Server {
    child: Child,
    port: u16,
    address: &'static str,
    home: Home,
}

impl Server {
    /// Waits until this process answers; returns how it ended when it does so instead.
    pub(super) fn attend(
        child: Child,
        address: &'static str,
        port: u16,
        home: Home,
    ) -> Result<Self, ExitStatus> {
        let mut server = Self { child, port, address, home };
        server.wait_until_ready().map(|()| server)
    }

    fn wait_until_ready(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(status);
            }
            let socket = self.socket();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut reply = [0; 8192];
            // Whatever it answers, it serves.
            if socket
                .send(b"Op: ping\nPV: 2.1\nThread: 1024\n\n")
                .and_then(|_| socket.recv(&mut reply))
                .is_ok()
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the server does not answer")
    }

    /// The port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
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
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Stops it safely and returns how it ended; panics when that takes too long.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().expect("the server does not stop")
    }

    /// How it ended, when it does so in time.
    fn ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::SIGTERM);
            if self.ended().is_none() {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
            }
        }
        if thread::panicking() {
            eprintln!("{}", self.home.everything_said());
        }
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

/// A reply as a client reads it.
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl Reply {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned)
    }

    /// The number in a header; panics when there is none.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i64 {
        let value = self.header(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {}", self.0.escape_ascii()))
    }

    /// `Code`.
    #[track_caller]
    pub(crate) fn code(&self) -> i64 {
        self.number("Code")
    }

    /// `Count` and `WL-Count`.
    #[track_caller]
    pub(crate) fn counts(&self) -> (i64, i64) {
        (self.number("Count"), self.number("WL-Count"))
    }

    /// `Entered`, `Updated`, `WL-Entered` and `WL-Updated`.
    #[track_caller]
    pub(crate) fn times(&self) -> [i64; 4] {
        ["Entered", "Updated", "WL-Entered", "WL-Updated"].map(|name| self.number(name))
    }
}
