//! A Redis whose `SCAN` returns keys twice, as Redis may when its hash table is resized.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy for a Redis on 127.0.0.1 that repeats keys in the replies to `SCAN`.
pub(crate) struct Repeating {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    repeated: AtomicUsize,
    /// The keys of the last reply, in their protocol form.
    previous: Mutex<Vec<Vec<u8>>>,
}

impl Repeating {
    /// Starts a proxy for the Redis on this port.
    pub(crate) fn before(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if own.over.load(Ordering::Relaxed) {
                    return;
                }
                connect(client, redis, &own);
            }
        });
        Self { port, shared }
    }

    /// The port of the proxy.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the number of repeated keys.
    pub(crate) fn repeated(&self) -> usize {
        self.shared.repeated.load(Ordering::Relaxed)
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(client: TcpStream, redis: u16, shared: &Arc<Shared>) {
    let server = TcpStream::connect(("127.0.0.1", redis)).unwrap();
    let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    // For each unanswered command, whether it is a SCAN.
    let asked = Arc::new(Mutex::new(VecDeque::new()));
    let (asking, shared) = (Arc::clone(&asked), Arc::clone(shared));
    thread::spawn(move || {
        relay(client, to_server, |command| {
            let is_scan = command.windows(8).any(|part| part.eq_ignore_ascii_case(b"$4\r\nSCAN"));
            asking.lock().unwrap().push_back(is_scan);
            command.to_vec()
        });
    });
    thread::spawn(move || {
        relay(server, to_client, |reply| match reply[0] {
            // A reply without a command.
            b'>' => reply.to_vec(),
            _ if asked.lock().unwrap().pop_front() == Some(true) => repeat(reply, &shared),
            _ => reply.to_vec(),
        });
    });
}

/// Forwards commands or replies one by one.
fn relay(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&[u8]) -> Vec<u8>) {
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        match from.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
        }
        let mut ready = Vec::new();
        while let Some(length) = part(&buffer) {
            let rest = buffer.split_off(length);
            ready.extend(change(&buffer));
            buffer = rest;
        }
        if to.write_all(&ready).is_err() {
            break;
        }
    }
    // The other direction may have closed the connection.
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Returns the length of the first command or reply, if it is complete.
fn part(bytes: &[u8]) -> Option<usize> {
    let end = 2 + bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..end - 2]).unwrap().parse::<i64>().unwrap();
    let length = match bytes[0] {
        b'$' | b'=' | b'!' => match usize::try_from(number()) {
            Ok(length) => end + length + 2,
            Err(_) => end,
        },
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let parts = number() * if kind == b'%' { 2 } else { 1 };
            (0..parts).try_fold(end, |at, _| Some(at + part(&bytes[at..])?))?
        }
        _ => end,
    };
    (length <= bytes.len()).then_some(length)
}

/// Returns a reply of `SCAN` with half of its keys twice, and with all keys of the reply before.
fn repeat(reply: &[u8], shared: &Shared) -> Vec<u8> {
    if !reply.starts_with(b"*2\r\n") {
        return reply.to_vec();
    }
    let cursor = 4 + part(&reply[4..]).unwrap();
    let mut at = cursor + 2 + reply[cursor..].windows(2).position(|pair| pair == b"\r\n").unwrap();
    let mut keys = Vec::new();
    while at < reply.len() {
        let length = part(&reply[at..]).unwrap();
        keys.push(reply[at..at + length].to_vec());
        at += length;
    }
    let mut previous = shared.previous.lock().unwrap();
    let more: Vec<Vec<u8>> = keys[..keys.len() / 2].iter().chain(previous.iter()).cloned().collect();
    shared.repeated.fetch_add(more.len(), Ordering::Relaxed);
    let count = format!("*{}\r\n", keys.len() + more.len());
    let whole = [&reply[..cursor], count.as_bytes(), &keys.concat(), &more.concat()].concat();
    *previous = keys;
    whole
}
