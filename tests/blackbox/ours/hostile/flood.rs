//! Mutated datagrams and their replies.

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

/// What is sent before the witness asks: less than the server's socket has room for, so that every datagram
/// gets to it.
const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 96 * 1024;
/// How many different signed requests there are at a time, and for how long: their time must stay valid.
const SIGNED: usize = 20;
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// More of a reply than any server sends but for a long `Thread`.
const REPLY: usize = 16_384;

/// Requests of all kinds, valid ones and others, and replies.
fn corpus(bob: &Account) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut corpus: Vec<_> = files.map(|path| fs::read(path).unwrap()).collect();
    // The mutator picks by place, so the order must always be the same.
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

/// Who sends the flood, and looks at what comes back.
pub(super) struct Flood {
    socket: UdpSocket,
    mutator: Mutator,
    bob: Account,
    signed: Instant,
    window: Vec<Vec<u8>>,
    headers: MultiHeaders<()>,
    room: Vec<u8>,
    /// How many datagrams have been sent.
    pub(super) sent: u64,
    /// How many replies have come.
    pub(super) replies: u64,
    /// How many bytes the longest of them had.
    pub(super) longest: usize,
}

impl Flood {
    /// One that has not begun.
    pub(super) fn new(server: &Server, bob: Account, seed: u64) -> Self {
        let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/words.dict");
        Self {
            socket: server.socket(),
            mutator: Mutator::new(seed, &dictionary, corpus(&bob)),
            bob,
            signed: Instant::now(),
            window: vec![Vec::new(); WINDOW],
            headers: MultiHeaders::preallocate(WINDOW, None),
            room: vec![0; WINDOW * REPLY],
            sent: 0,
            replies: 0,
            longest: 0,
        }
    }

    /// Sends at most so many datagrams.
    pub(super) fn send(&mut self, most: u64) {
        if self.signed.elapsed() > SIGNED_FOR {
            self.mutator.replace_corpus(corpus(&self.bob));
            self.signed = Instant::now();
        }
        let (mut count, mut bytes) = (0, 0);
        while count < WINDOW.min(most as usize) && bytes < WINDOW_BYTES {
            self.window[count].clear();
            // Some as they are, so that all the rest of the server has work, too.
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

    /// Takes what has been answered so far and looks at it.
    pub(super) fn receive(&mut self) {
        loop {
            let mut slices: Vec<_> =
                self.room.chunks_exact_mut(REPLY).map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let lengths: Vec<_> = match recvmmsg(socket, &mut self.headers, &mut slices, flags, None) {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN) => return,
                Err(error) => panic!("{error}"),
            };
            for (reply, length) in self.room.chunks_exact(REPLY).zip(&lengths) {
                check_reply(&reply[..*length], &self.bob);
                self.longest = self.longest.max(*length);
            }
            self.replies += lengths.len() as u64;
            if lengths.len() < WINDOW {
                return;
            }
        }
    }

    /// How many datagrams the kernel had no room for in its socket.
    pub(super) fn drops(&self) -> u64 {
        let port = self.socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let has_port = |line: &&str| {
            let local = line.split_whitespace().nth(1).and_then(|local| local.split(':').nth(1));
            local.is_some_and(|local| local == format!("{port:04X}"))
        };
        let line = table.lines().find(has_port).expect("a socket that the kernel knows");
        line.split_whitespace().next_back().unwrap().parse().unwrap()
    }
}

/// What holds of every reply.
#[track_caller]
fn check_reply(reply: &[u8], bob: &Account) {
    let fails = |why| panic!("{why}: {}", reply.escape_ascii());
    let Some(rest) = reply.strip_prefix(b"Code: ") else { fails("no code") };
    if !matches!(&rest[..3], b"200" | b"400" | b"401" | b"403" | b"501" | b"505") {
        fails("an unexpected code");
    }
    if !reply.ends_with(b"\n\n") {
        fails("no end");
    }
    if memchr::memmem::find(reply, bob.key().as_bytes()).is_some() {
        fails("a key");
    }
}
