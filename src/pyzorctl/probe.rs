//! One request over UDP, like that of a mail host, and the reply to it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pyzor_wire::MAX_DATAGRAM;
use pyzor_wire::local_only::{LOCAL_ONLY, YES};
use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::{Code, ReceivedReply};
use pyzor_wire::request::ANONYMOUS;

/// The number of times that a request is sent: a datagram can be lost on a healthy network.
pub(super) const TRIES: u32 = 2;
/// The digest of the check, which no message has. It is easily recognized in a usage log.
const DUMMY_DIGEST: &str = "0000000000000000000000000000000000000000";
/// Python clients send numbers below 65536 as `Thread`. This one is larger, so that its replies cannot be guessed.
const THREADS: u64 = 1 << 62;

/// A socket that is connected to one address of a server.
pub(super) struct Probe {
    socket: UdpSocket,
    timeout: Duration,
}

/// The reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProbeReply {
    pub(super) code: Code,
    /// The time from the request to the reply.
    pub(super) took: Duration,
}

/// The reason why there is no reply.
#[derive(Debug)]
pub(super) enum ProbeFailure {
    /// Nothing arrived in time.
    Silent,
    /// The machine replied that no process uses the port.
    PortClosed,
    /// The system cannot send to the address.
    System(io::Error),
}

impl Probe {
    /// Opens a socket to this address.
    ///
    /// # Errors
    ///
    /// The system has no socket, or no route to the address.
    pub(super) fn open(server: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        // The kernel then drops datagrams from other addresses, and reports a closed port.
        socket.connect(server)?;
        Ok(Self { socket, timeout })
    }

    /// Sends a request up to [`TRIES`] times, and returns the reply to the latest one.
    pub(super) fn ask(&self, op: Op) -> Result<ProbeReply, ProbeFailure> {
        let mut outcome = Err(ProbeFailure::Silent);
        for _ in 0..TRIES {
            outcome = self.ask_once(op);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn ask_once(&self, op: Op) -> Result<ProbeReply, ProbeFailure> {
        let thread = RandomState::new().build_hasher().finish() % THREADS + THREADS;
        let begin = Instant::now();
        self.socket.send(request(op, thread).as_bytes()).map_err(failure)?;
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let left = self.timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(ProbeFailure::Silent);
            }
            self.socket.set_read_timeout(Some(left)).map_err(ProbeFailure::System)?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    // Anything else is late, or forged.
                    let reply =
                        ReceivedReply::parse(&buffer[..length]).filter(|reply| reply.thread == thread);
                    if let Some(reply) = reply {
                        return Ok(ProbeReply { code: reply.code_for(op), took: begin.elapsed() });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

fn failure(error: io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::PortClosed,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ProbeFailure::Silent,
        _ => ProbeFailure::System(error),
    }
}

/// An anonymous request.
fn request(op: Op, thread: u64) -> String {
    let digest = match op {
        Op::Ping => String::new(),
        // Other servers must not be asked: this is a test of the database.
        _ => format!("Op-Digest: {DUMMY_DIGEST}\n{LOCAL_ONLY}: {YES}\n"),
    };
    format!("Op: {op}\n{digest}Thread: {thread}\nPV: 2.1\nUser: {ANONYMOUS}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_anonymous_user() {
        assert_eq!(request(Op::Ping, 7), "Op: ping\nThread: 7\nPV: 2.1\nUser: anonymous\n\n");
        let zeros = "0".repeat(40);
        assert_eq!(
            request(Op::Check, 7),
            format!(
                "Op: check\nOp-Digest: {zeros}\nLocal-Only: yes\nThread: 7\nPV: 2.1\nUser: anonymous\n\n"
            )
        );
    }
}
