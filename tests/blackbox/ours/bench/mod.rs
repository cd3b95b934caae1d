//! pyzor-bench: its requests, its handling of replies, and its output.

mod overload;
mod peers;
mod screen;
mod servers;
mod sweep;
mod version;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Finished, eventually, finish};

/// The command `pyzor-bench` with these arguments, separated by blanks, and this server.
fn program(arguments: &str, server: SocketAddr) -> Command {
    let mut command = Command::new(crate::harness::generator());
    command.args(arguments.split_whitespace()).arg(server.to_string()).stdin(Stdio::null());
    command
}

/// Runs the program against this server.
fn said(arguments: &str, server: SocketAddr) -> Finished {
    finish(program(arguments, server))
}

/// Runs the program with `--json` against a server, which must answer.
#[track_caller]
fn measured(arguments: &str, server: SocketAddr) -> Outcome {
    let finished = said(&format!("{arguments} --json"), server);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    Outcome::read(&finished)
}

/// The output of `--json`.
struct Outcome(Value);

impl Outcome {
    #[track_caller]
    fn read(finished: &Finished) -> Self {
        Self(serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}")))
    }

    /// The value at this JSON pointer, such as `/latency/p50`.
    #[track_caller]
    fn value(&self, place: &str) -> &Value {
        self.0.pointer(place).unwrap_or_else(|| panic!("no {place} in {}", self.0))
    }

    #[track_caller]
    fn count(&self, place: &str) -> u64 {
        self.value(place).as_u64().unwrap_or_else(|| panic!("{place} is no count in {}", self.0))
    }

    #[track_caller]
    fn number(&self, place: &str) -> f64 {
        self.value(place).as_f64().unwrap_or_else(|| panic!("{place} is no number in {}", self.0))
    }

    /// Asserts that every scheduled request is in exactly one category.
    #[track_caller]
    fn expect_complete(&self) {
        let failed = self.value("/failed").as_object().unwrap().values();
        let failed: u64 = failed.map(|count| count.as_u64().unwrap()).sum();
        for (whole, parts) in [
            ("/scheduled", self.count("/sent") + self.count("/unsent")),
            ("/sent", self.count("/answered") + self.count("/lost")),
            ("/answered", self.count("/succeeded") + failed),
        ] {
            assert_eq!(self.count(whole), parts, "{whole} in {}", self.0);
        }
    }

    /// Asserts that `count` requests were sent and all of them succeeded.
    #[track_caller]
    fn expect_all(&self, count: u64) {
        for place in ["/sent", "/answered", "/succeeded"] {
            assert_eq!(self.count(place), count, "{place} in {}", self.0);
        }
        for place in ["/lost", "/late", "/unknown", "/unsent"] {
            assert_eq!(self.count(place), 0, "{place} in {}", self.0);
        }
        assert_eq!(*self.value("/failed"), serde_json::json!({}));
        self.expect_complete();
    }
}

/// Returns how many datagrams the kernel dropped because this socket's buffer was full.
fn drops(socket: &UdpSocket) -> u64 {
    let port = format!("{:04X}", socket.local_addr().unwrap().port());
    let table = fs::read_to_string("/proc/net/udp").unwrap();
    let has_port = |line: &&str| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port));
    let line = table.lines().find(has_port).expect("a socket that the kernel knows");
    line.split_whitespace().next_back().unwrap().parse().unwrap()
}

/// A running `pyzor-bench echo`, killed on drop.
struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    /// Starts the program on this address, or on its default address if there is none.
    fn start(address: &[&str]) -> Self {
        let mut command = Command::new(crate::harness::generator());
        let command = command.arg("echo").args(address).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("unexpected line {line:?}"));
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a child exits and returns its exit code.
#[track_caller]
fn ended(child: &mut Child) -> Option<i32> {
    eventually("the end of the program", || child.try_wait().unwrap()).code()
}

/// The headers that only replies to check, info and pong have.
const COUNTS: &str = "Count: 0\nWL-Count: 0\n";

/// A server in a thread of the test, which records all requests and replies as the test decides.
struct Recorder<S> {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Vec<Vec<u8>>, S)>>,
}

/// Sends the reply to a request, now or later.
struct Replies<'a> {
    socket: &'a UdpSocket,
    held: &'a mut Vec<(Instant, Vec<u8>, SocketAddr)>,
    peer: SocketAddr,
    reply: Vec<u8>,
}

impl Replies<'_> {
    fn now(&self) {
        self.socket.send_to(&self.reply, self.peer).unwrap();
    }

    fn after(&mut self, delay: Duration) {
        self.held.push((Instant::now() + delay, self.reply.clone(), self.peer));
    }
}

impl<S: Send + 'static> Recorder<S> {
    /// Starts a server that calls `answer` for each request with its number, starting at 0.
    fn start(mut state: S, mut answer: impl FnMut(&mut S, usize, Replies<'_>) + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (address, over) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let (mut requests, mut held) = (Vec::new(), Vec::new());
            let mut buffer = [0; 8192];
            while !is_over.load(Ordering::Relaxed) {
                let now = Instant::now();
                held.retain(|(due, reply, peer): &(Instant, Vec<u8>, SocketAddr)| {
                    let is_due = *due <= now;
                    if is_due {
                        // The client may have exited.
                        let _ = socket.send_to(reply, peer);
                    }
                    !is_due
                });
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let request = buffer[..length].to_vec();
                let reply = format!(
                    "Code: 200\nDiag: OK\nPV: 2.1\nThread: {}\n{COUNTS}\n",
                    header(&request, "Thread")
                );
                let reply = reply.into_bytes();
                let replies = Replies { socket: &socket, held: &mut held, peer, reply };
                answer(&mut state, requests.len(), replies);
                requests.push(request);
            }
            (requests, state)
        });
        Self { address, over, thread: Some(thread) }
    }

    /// Stops the server and returns all requests and the state.
    fn stop(mut self) -> (Vec<Vec<u8>>, S) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl<S> Drop for Recorder<S> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Returns the value of a request's header.
fn header(request: &[u8], name: &str) -> String {
    let text = String::from_utf8(request.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
}
