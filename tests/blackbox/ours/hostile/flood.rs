//! A client that sends mutated datagrams and checks the replies.

use std::fs;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};

use super::mutator::Mutator;
use crate::harness::{Account, Server, digest, unix_time};

/// The datagrams sent between two requests of the witness: less than the receive buffer of the server holds, so that it
/// receives every datagram.
const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 96 * 1024;
/// The number of different signed requests in the corpus.
const SIGNED: usize = 20;
/// The age at which signed requests are replaced, so that their time stamps stay valid.
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// The size of a reply buffer, in bytes: a reply is short except for its thread.
const REPLY: usize = 16_384;

/// Returns valid and invalid requests of all kinds, and replies.
fn corpus(bob: &Account) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut corpus: Vec<_> = files.map(|path| fs::read(path).unwrap()).collect();
    // The mutator picks by index, so the order must be deterministic.
    corpus.sort();
    for operation in ["ping", "pong", "check", "info", "report", "whitelist"] {
        let headers = |number, thread: &str| {
            format!("Op: {operation}\nOp-Digest: {}\nThread: {thread}\nPV: 2.1\n", digest(number))
        };
        corpus.extend((0..3).map(|number| headers(number, "3000").into_bytes()));
        corpus.push(headers(3, &"T".repeat(4000)).into_bytes());
        corpus.push(headers(4, "30\n 00\n\t00").into_bytes());
    }
    for operation in ["report", "whitelist"] {
        let digests: String = (0..20).map(|number| format!("Op-Digest: {}\n", digest(number))).collect();
        corpus.push(format!("Op: {operation}\n{digests}Thread: 3000\nPV: 2.1\n").into_bytes());
    }
    for number in 0..SIGNED {
        let operation = ["ping", "check", "info", "report", "whitelist"][number % 5];
        let headers = format!("Op: {operation}\nOp-Digest: {}\nThread: {number}\nPV: 2.1\n", digest(7));
        corpus.push(bob.sign(&headers, unix_time()));
    }
    corpus.push(b"Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\nCount: 1\nWL-Count: 0\n\n".to_vec());
    corpus.push(Vec::new());
    corpus.push((0..=255).collect());
    corpus.into_iter().map(|bytes| (String::new(), bytes)).collect()
}

/// A client that sends the flood and checks the replies.
pub(super) struct Flood {
    socket: UdpSocket,
    mutator: Mutator,
    bob: Account,
    signed: Instant,
    window: Vec<Vec<u8>>,
    headers: MultiHeaders<()>,
    buffers: Vec<u8>,
    /// The number of datagrams sent.
    pub(super) sent: u64,
    /// The number of replies received.
    pub(super) replies: u64,
    /// The length of the longest reply, in bytes.
    pub(super) longest: usize,
}

impl Flood {
    /// Returns a flood that has not started.
    pub(super) fn new(server: &Server, bob: Account, seed: u64) -> Self {
        let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/words.dict");
        Self {
            socket: server.socket(),
            mutator: Mutator::new(seed, &dictionary, corpus(&bob)),
            bob,
            signed: Instant::now(),
            window: vec![Vec::new(); WINDOW],
            headers: MultiHeaders::preallocate(WINDOW, None),
            buffers: vec![0; WINDOW * REPLY],
            sent: 0,
            replies: 0,
            longest: 0,
        }
    }

    /// Sends up to `most` datagrams.
    pub(super) fn send(&mut self, most: u64) {
        if self.signed.elapsed() > SIGNED_FOR {
            self.mutator.replace_corpus(corpus(&self.bob));
            self.signed = Instant::now();
        }
        let (mut count, mut bytes) = (0, 0);
        while count < WINDOW.min(most as usize) && bytes < WINDOW_BYTES {
            self.window[count].clear();
            // Some are unchanged, so that the database is busy, too.
            let datagram =
                if count % 8 == 0 { self.mutator.next_unchanged() } else { self.mutator.next_input() };
            self.window[count].extend_from_slice(datagram);
            bytes += datagram.len();
            count += 1;
        }
        for datagram in &self.window[..count] {
            self.socket.send(datagram).unwrap();
        }
        self.sent += count as u64;
    }

    /// Receives and checks the replies that have arrived.
    pub(super) fn receive(&mut self) {
        loop {
            let mut slices: Vec<_> =
                self.buffers.chunks_exact_mut(REPLY).map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let lengths: Vec<_> = match recvmmsg(socket, &mut self.headers, &mut slices, flags, None) {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN) => return,
                Err(error) => panic!("{error}"),
            };
            for (reply, length) in self.buffers.chunks_exact(REPLY).zip(&lengths) {
                check_reply(&reply[..*length], &self.bob);
                self.longest = self.longest.max(*length);
            }
            self.replies += lengths.len() as u64;
            if lengths.len() < WINDOW {
                return;
            }
        }
    }

    /// The number of replies the kernel dropped because the receive buffer of this client was full.
    pub(super) fn drops(&self) -> u64 {
        let port = self.socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let has_port = |line: &&str| {
            let local = line.split_whitespace().nth(1).and_then(|local| local.split(':').nth(1));
            local.is_some_and(|local| local == format!("{port:04X}"))
        };
        let line = table.lines().find(has_port).expect("the socket is missing in /proc/net/udp");
        line.split_whitespace().next_back().unwrap().parse().unwrap()
    }
}

/// Checks the properties of every reply.
#[track_caller]
fn check_reply(reply: &[u8], bob: &Account) {
    let fails = |reason| panic!("{reason}: {}", reply.escape_ascii());
    let Some(rest) = reply.strip_prefix(b"Code: ") else { fails("no code") };
    if !matches!(&rest[..3], b"200" | b"400" | b"401" | b"403" | b"501" | b"505") {
        fails("an unexpected code");
    }
    if !reply.ends_with(b"\n\n") {
        fails("no empty line at the end");
    }
    if memchr::memmem::find(reply, bob.key().as_bytes()).is_some() {
        fails("contains a key");
    }
}
