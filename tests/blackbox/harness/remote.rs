//! Scripted Pyzor servers that other servers forward to, or ask.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Account, eventually, free_port_at};

/// A datagram that a [`Remote`] has received.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) at: Instant,
}

impl Datagram {
    /// Returns the text, which must be UTF-8.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// Returns the value of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn operation(&self) -> &str {
        self.header("Op").unwrap_or_default()
    }

    /// Returns the digests, in their order.
    pub(crate) fn digests(&self) -> Vec<&str> {
        self.text().lines().filter_map(|line| line.strip_prefix("Op-Digest: ")).collect()
    }

    /// Returns the reply of this code.
    pub(crate) fn reply(&self, code: u16) -> Vec<u8> {
        let diag = if code == 200 { "OK" } else { "Refused by the test." };
        let thread = self.header("Thread").unwrap_or("0");
        format!("Code: {code}\nDiag: {diag}\nPV: 2.1\nThread: {thread}\n\n").into_bytes()
    }

    /// Returns the reply to a check with these counts.
    pub(crate) fn counted(&self, (reports, whitelistings): (i64, i64)) -> Vec<u8> {
        let mut reply = self.reply(200);
        reply.pop();
        reply.extend(format!("Count: {reports}\nWL-Count: {whitelistings}\n\n").into_bytes());
        reply
    }

    /// Asserts that the datagram is signed with this account.
    #[track_caller]
    pub(crate) fn expect_signed(&self, account: &Account) {
        let (signed, signature) = self.text().trim_end().rsplit_once("\nSig: ").unwrap();
        let time = self.header("Time").unwrap().parse().unwrap();
        assert_eq!(self.header("User"), Some(account.name()));
        assert_eq!(account.signature(signed, time), signature, "{}", self.text());
    }

    /// Returns the text with a placeholder for each value that differs from one datagram to the next, and without the
    /// header that only this package's server sends.
    pub(crate) fn pattern(&self) -> String {
        let line = |line: &str| match line.split_once(": ") {
            Some(("Forward-Id", _)) => String::new(),
            Some((name @ ("Thread" | "Time" | "Sig"), _)) => format!("{name}: *\n"),
            _ => format!("{line}\n"),
        };
        self.text().strip_suffix('\n').unwrap().split('\n').map(line).collect()
    }
}

/// The action of a [`Remote`] on one datagram.
pub(crate) enum Answer {
    Silence,
    Reply(Vec<u8>),
    /// Sends several replies, one behind the other.
    Replies(Vec<Vec<u8>>),
    /// Replies after this time. Other datagrams are received meanwhile.
    Later(Duration, Vec<u8>),
    /// Replies at the next [`Remote::release`].
    Held(Vec<u8>),
}

type Script = Box<dyn FnMut(&Datagram) -> Answer + Send>;

struct Shared {
    script: Mutex<Script>,
    received: Mutex<Vec<Datagram>>,
    closing: AtomicBool,
    releasing: AtomicBool,
}

/// A UDP server that records what it receives and replies by a script.
pub(crate) struct Remote {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    /// Starts a server on a free port of 127.0.0.1 with this script.
    pub(crate) fn start(script: impl FnMut(&Datagram) -> Answer + Send + 'static) -> Self {
        Self::start_at("127.0.0.1", free_port_at("127.0.0.1"), script)
    }

    /// Starts a server at this address.
    pub(crate) fn start_at(
        address: &str,
        port: u16,
        script: impl FnMut(&Datagram) -> Answer + Send + 'static,
    ) -> Self {
        let mut remote = Self::closed_at(address, port, script);
        remote.open();
        remote
    }

    /// A server that is not running yet.
    pub(crate) fn closed_at(
        address: &str,
        port: u16,
        script: impl FnMut(&Datagram) -> Answer + Send + 'static,
    ) -> Self {
        let shared = Shared {
            script: Mutex::new(Box::new(script)),
            received: Mutex::default(),
            closing: AtomicBool::new(false),
            releasing: AtomicBool::new(false),
        };
        let address = SocketAddr::new(address.parse().unwrap(), port);
        Self { address, shared: Arc::new(shared), thread: None }
    }

    /// Starts a server that accepts everything.
    pub(crate) fn accepting() -> Self {
        Self::start(accept)
    }

    /// Starts a server that never replies.
    pub(crate) fn silent() -> Self {
        Self::start(|_| Answer::Silence)
    }

    /// Starts a server that refuses everything with this code.
    pub(crate) fn refusing(code: u16) -> Self {
        Self::start(move |datagram| Answer::Reply(datagram.reply(code)))
    }

    /// Starts a server with these counts of every digest. It replies to pings as well.
    pub(crate) fn counting(reports: i64, whitelistings: i64) -> Self {
        Self::start(move |datagram| counting(datagram, (reports, whitelistings)))
    }

    /// Starts a server with these counts of every digest, whose replies are held until they are released.
    pub(crate) fn holding(reports: i64, whitelistings: i64) -> Self {
        Self::start(move |datagram| Answer::Held(datagram.counted((reports, whitelistings))))
    }

    /// Sends all replies that are held.
    pub(crate) fn release(&self) {
        self.shared.releasing.store(true, Ordering::Relaxed);
        eventually("held replies to be sent", || {
            (!self.shared.releasing.load(Ordering::Relaxed)).then_some(())
        });
    }

    /// Replaces the script.
    pub(crate) fn follow(&self, script: impl FnMut(&Datagram) -> Answer + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the line of the servers file.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Closes the socket, so that the kernel reports an unreachable port to senders.
    pub(crate) fn close(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || thread::panicking(), "the script has failed");
        }
    }

    /// Opens the socket again, on the same port.
    pub(crate) fn open(&mut self) {
        assert!(self.thread.is_none(), "the server is running already");
        self.shared.closing.store(false, Ordering::Relaxed);
        // A child of another test may have the socket that found the port open for a moment, between fork and exec.
        let socket = eventually("the port to be free", || UdpSocket::bind(self.address).ok());
        let shared = Arc::clone(&self.shared);
        self.thread = Some(thread::spawn(move || serve(&socket, &shared)));
    }

    /// Returns everything received, pings included.
    pub(crate) fn datagrams(&self) -> Vec<Datagram> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Returns all requests with digests.
    pub(crate) fn requests(&self) -> Vec<Datagram> {
        self.datagrams().into_iter().filter(|datagram| datagram.operation() != "ping").collect()
    }

    /// Returns how often each digest was received with this operation.
    pub(crate) fn counts(&self, operation: &str) -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        for request in self.requests().iter().filter(|request| request.operation() == operation) {
            for digest in request.digests() {
                *counts.entry(digest.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Returns the number of digests received, repeats included.
    pub(crate) fn received(&self) -> usize {
        self.requests().iter().map(|request| request.digests().len()).sum()
    }

    /// Waits until so many digests have been received, repeats included.
    #[track_caller]
    pub(crate) fn receives(&self, digests: usize) {
        eventually("digests at a remote server", || (self.received() >= digests).then_some(()));
        assert_eq!(self.received(), digests);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}

/// Accepts every request.
pub(crate) fn accept(datagram: &Datagram) -> Answer {
    Answer::Reply(datagram.reply(200))
}

/// Replies to a ping, and to anything else with these counts.
pub(crate) fn counting(datagram: &Datagram, counts: (i64, i64)) -> Answer {
    match datagram.operation() {
        "ping" => accept(datagram),
        _ => Answer::Reply(datagram.counted(counts)),
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut due: Vec<(Instant, SocketAddr, Vec<u8>)> = Vec::new();
    let mut held: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    let mut buffer = [0; 65_536];
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    while !shared.closing.load(Ordering::Relaxed) {
        let now = Instant::now();
        due.retain(|(at, to, reply)| {
            // The sender may be gone.
            let _ = (*at <= now).then(|| socket.send_to(reply, to));
            *at > now
        });
        if shared.releasing.load(Ordering::Relaxed) {
            for (to, reply) in held.drain(..) {
                // The sender may be gone.
                let _ = socket.send_to(&reply, to);
            }
            shared.releasing.store(false, Ordering::Relaxed);
        }
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_temporary(error.kind()) => continue,
            Err(error) => panic!("cannot receive: {error}"),
        };
        let datagram = Datagram { bytes: buffer[..length].to_vec(), from, at: Instant::now() };
        shared.received.lock().unwrap().push(datagram.clone());
        let answer = (shared.script.lock().unwrap())(&datagram);
        match answer {
            Answer::Silence => {}
            Answer::Reply(reply) => {
                let _ = socket.send_to(&reply, from);
            }
            Answer::Replies(replies) => {
                for reply in replies {
                    let _ = socket.send_to(&reply, from);
                }
            }
            Answer::Later(delay, reply) => due.push((datagram.at + delay, from, reply)),
            Answer::Held(reply) => held.push((from, reply)),
        }
    }
}

fn is_temporary(kind: ErrorKind) -> bool {
    // ConnectionRefused: an earlier reply found no receiver.
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
    )
}
