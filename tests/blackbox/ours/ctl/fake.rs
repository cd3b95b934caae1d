//! A scripted control socket.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A server in a thread of the test, which handles one connection after the other as the test decides.
pub(super) struct FakeServer {
    directory: TempDir,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl FakeServer {
    /// Starts a server that calls `serve` for each connection with its number, starting at 0, and its first line.
    pub(super) fn start(mut serve: impl FnMut(usize, &mut UnixStream) + Send + 'static) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("pyzord.sock")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut requests = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                serve(requests.len(), &mut stream);
                requests.push(line);
            }
            requests
        });
        Self { directory, over, thread: Some(thread) }
    }

    /// Starts a server that always gives this reply, a line or any other bytes, and then closes the connection.
    pub(super) fn replying(reply: impl AsRef<[u8]>) -> Self {
        use std::io::Write as _;
        let reply = reply.as_ref().to_vec();
        // The client may stop reading.
        Self::start(move |_, stream| drop(stream.write_all(&reply)))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("pyzord.sock")
    }

    /// Stops the server and returns the first line of each connection.
    pub(super) fn stop(mut self) -> Vec<String> {
        self.end().unwrap().join().unwrap()
    }

    fn end(&mut self) -> Option<JoinHandle<Vec<String>>> {
        self.over.store(true, Ordering::Relaxed);
        // Ends the wait for a connection.
        let _ = UnixStream::connect(self.socket());
        self.thread.take()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The reply to `status` of a server that is well.
pub(super) fn status() -> Value {
    json!({
        "health": "well",
        "problems": [],
        "version": "0.1.0",
        "build": "release",
        "pid": 42,
        "address": "127.0.0.1:24441",
        "started": "2026-11-25T08:00:00Z",
        "uptime_seconds": 300_000,
        "user": "pyzord",
        "confinement": "landlock, seccomp",
        "engine": "gdbm",
        "database": "/var/lib/pyzord/pyzord.db",
        "storage": {
            "availability": "available",
            "since_seconds": null,
            "reason": null,
            "records": 1_234_567,
            "bytes": 123_456_789,
            "synced_seconds_ago": 12,
            "last_expiry": { "seconds_ago": 7300, "removed": 5, "visited": 1000, "error": null },
            "next_expiry_in_seconds": 79_200,
            "problems": [],
        },
        "accounts": 3,
        "loaded": "2026-11-25T08:00:00Z",
        "replies": 12_345,
        "requests_per_second": 1234.4,
        "drops": 7,
        "lost_last_minute": 0,
        "replies_last_minute": 74_000,
        "engine_panics": 0,
        "forwarding": [],
    })
}

/// The reply to `stats` of a server that has answered this many checks since its start.
pub(super) fn stats(seconds: f64, checks: u64) -> Value {
    let histogram = |count: u64| {
        let (value, buckets) = if count > 0 { (111, json!([[111, count]])) } else { (0, json!([])) };
        json!({
            "count": count, "sum": count * 100, "p50": value, "p90": value, "p99": value, "p999": value,
            "buckets": buckets,
        })
    };
    json!({
        "seconds": seconds,
        "requests": { "check": { "200": checks, "403": 0 }, "ping": { "200": 0, "403": 0 } },
        "check_hits": checks / 2,
        "check_misses": checks - checks / 2,
        "anonymous": checks,
        "accounts": 0,
        "replays": 0,
        "forward_copies": 0,
        "drops": { "shed": 2, "reply": 0 },
        "exceeded": { "RateLimit": 0, "RateLimitErrors": 3, "RateLimitWrites": 0 },
        "engine_panics": 0,
        "received": histogram(checks),
        "batches": histogram(checks),
        "engine_micros": histogram(checks),
        "latency_micros": histogram(checks),
        "forwarding": {},
    })
}

/// A reply as a line.
pub(super) fn line(name: &str, report: &Value) -> String {
    format!("{}\n", json!({ name: report }))
}
