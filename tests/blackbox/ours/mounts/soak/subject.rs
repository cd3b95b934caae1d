//! A server under load, and the requests to it.

use std::fs;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::thread;
use std::time::Duration;

use crate::harness::{Account, Home, Process, digest, unix_time};

/// The number of digests that are reported, and compared at the end.
pub(crate) const DIGESTS: usize = 2000;

/// The number of requests in flight per sender.
pub(crate) const WINDOW: usize = 64;

/// The number of samples of the state of the servers.
pub(crate) const LOOKS: u32 = 40;

/// The most that the anonymous memory of a server may grow, in KiB.
pub(crate) const GROWTH: i64 = 2048;

/// A deterministic pseudo-random generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A server under test with its statistics.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) home: Home,
    /// The current process; some disturbances replace it.
    pub(crate) daemon: Mutex<Process>,
    pub(crate) sent: Vec<AtomicI64>,
    pub(crate) acknowledged: Vec<AtomicI64>,
    pub(crate) answers: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) looks: Mutex<Vec<Look>>,
    /// Whether the server runs throughout the test.
    pub(crate) lives_on: bool,
}

/// A sample of the resources of a process. Memory in KiB.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) anonymous: i64,
    pub(crate) resident: i64,
    pub(crate) descriptors: i64,
    pub(crate) threads: i64,
}

impl Subject {
    pub(crate) fn new(name: &'static str, home: Home, daemon: Process, lives_on: bool) -> Self {
        let zeros = || (0..DIGESTS).map(|_| AtomicI64::new(0)).collect();
        Self {
            name,
            home,
            daemon: Mutex::new(daemon),
            sent: zeros(),
            acknowledged: zeros(),
            answers: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            looks: Mutex::default(),
            lives_on,
        }
    }

    pub(crate) fn process(&self) -> Process {
        *self.daemon.lock().unwrap()
    }

    /// Keeps a window of requests in flight: mostly reports, some of them signed.
    pub(crate) fn load(&self, bob: &Account, over: &AtomicBool, seed: u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.home.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let mut random = Random(seed);
        // The digest that each thread number in use reports; `Some(None)`: the request reports none.
        let mut asked: Vec<Option<Option<usize>>> = vec![None; 65_536];
        let (mut in_flight, mut next) = (0, 1024_usize);
        let mut buffer = [0; 1024];
        while !over.load(Relaxed) {
            while in_flight < WINDOW {
                next = if next >= 65_535 { 1024 } else { next + 1 };
                let number = random.below(DIGESTS as u64) as usize;
                let text = digest(number as u32);
                let (operation, counts) = match random.below(10) {
                    0..6 => ("report", true),
                    6..8 => ("check", false),
                    8 => ("info", false),
                    _ => ("whitelist", false),
                };
                let headers = format!("Op: {operation}\nOp-Digest: {text}\nThread: {next}\nPV: 2.1\n");
                let request = match random.below(8) {
                    0 => bob.sign(&headers, unix_time()),
                    _ => format!("{headers}\n").into_bytes(),
                };
                if counts {
                    self.sent[number].fetch_add(1, Relaxed);
                }
                if socket.send(&request).is_err() {
                    thread::sleep(Duration::from_millis(1));
                }
                asked[next] = Some(counts.then_some(number));
                in_flight += 1;
            }
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let Some((code, thread)) = code_and_thread(&buffer[..length]) else { continue };
                    // A late reply no longer has a request: its report is not counted as acknowledged.
                    let Some(request) = asked[thread].take() else { continue };
                    in_flight = in_flight.saturating_sub(1);
                    self.answers.fetch_add(1, Relaxed);
                    match (code, request) {
                        (200, Some(number)) => {
                            self.acknowledged[number].fetch_add(1, Relaxed);
                        }
                        (200, None) => {}
                        _ => {
                            self.refusals.fetch_add(1, Relaxed);
                        }
                    }
                }
                // Replies were lost because of a fault: start a new window.
                Err(_) => {
                    asked.iter_mut().for_each(|request| *request = None);
                    in_flight = 0;
                }
            }
        }
    }

    /// Sends malformed requests, none of which may change a count.
    pub(crate) fn send_malformed_requests(&self, over: &AtomicBool, seed: u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.home.port())).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut random = Random(seed);
        // Random changes may turn the third one into a valid report of this digest, for example by a digit that
        // replaces the space.
        let known = "f".repeat(40);
        let models = [
            format!("Op: check\nOp-Digest: {known}\nThread: 3000\nPV: 2.1\n\n"),
            format!(
                "Op: info\nOp-Digest: {known}\nThread: 3000\nPV: 2.1\nUser: bob\nTime: 1\nSig: {known}\n\n"
            ),
            format!("Op: report\nOp-Digest: {}\nThread: 3000\nPV: 2.1\n\n", &known[1..]),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n\n".to_owned(),
            "Op: pong\nThread: 30\n 00\nPV: 2.1\n\n".to_owned(),
        ];
        while !over.load(Relaxed) {
            for _ in 0..20 {
                let mut bytes = models[random.below(models.len() as u64) as usize].clone().into_bytes();
                for _ in 0..=random.below(6) {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.below(256) as u8;
                }
                bytes.truncate(1 + random.below(2 * bytes.len() as u64) as usize);
                let _ = socket.send(&bytes);
                while socket.recv(&mut [0; 2048]).is_ok() {}
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn look(&self) {
        let daemon = self.process();
        let Ok(status) = fs::read_to_string(daemon.proc("status")) else { return };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
        };
        self.looks.lock().unwrap().push(Look {
            anonymous: field("RssAnon:"),
            resident: field("VmRSS:"),
            descriptors: daemon.descriptors().len() as i64,
            threads: field("Threads:"),
        });
    }

    /// Compares acknowledged reports with the stored counts.
    pub(crate) fn compare_counts(&self, stored: &std::collections::BTreeMap<String, i64>) -> String {
        let (mut total, mut acknowledged, mut sent) = (0, 0, 0);
        for number in 0..DIGESTS {
            let found = stored.get(&digest(number as u32)).copied().unwrap_or(0);
            let (least, most) = (self.acknowledged[number].load(Relaxed), self.sent[number].load(Relaxed));
            assert!(
                (least..=most).contains(&found),
                "{}: digest {number}: {found} stored, {least} acknowledged, {most} sent",
                self.name
            );
            (total, acknowledged, sent) = (total + found, acknowledged + least, sent + most);
        }
        format!("{sent} reports sent, {acknowledged} acknowledged, {total} stored")
    }

    /// Returns the median of a field over a part of the samples.
    pub(crate) fn median(
        &self,
        part: impl Fn(usize) -> std::ops::Range<usize>,
        field: impl Fn(&Look) -> i64,
    ) -> i64 {
        let looks = self.looks.lock().unwrap();
        let mut values: Vec<i64> = looks[part(looks.len())].iter().map(field).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    }

    /// Asserts that the server takes no more resources at the end than early in the run, and prints them.
    pub(crate) fn judge(&self, stored: &str) {
        // During the first fifth, bounded caches fill up.
        let early = |count: usize| count / 5..(count * 2 / 5).max(count / 5 + 1);
        let late = |count: usize| count * 4 / 5..count;
        let pair = |field: fn(&Look) -> i64| (self.median(early, field), self.median(late, field));
        let (anonymous, resident) = (pair(|look| look.anonymous), pair(|look| look.resident));
        let (descriptors, threads) = (pair(|look| look.descriptors), pair(|look| look.threads));
        println!(
            "{:<14} {:>9} answers, {:>7} of them refusals; {stored}; memory {} -> {} KiB anonymous, {} -> {} resident; \
             descriptors {} -> {}; threads {} -> {}",
            self.name,
            self.answers.load(Relaxed),
            self.refusals.load(Relaxed),
            anonymous.0,
            anonymous.1,
            resident.0,
            resident.1,
            descriptors.0,
            descriptors.1,
            threads.0,
            threads.1,
        );
        assert!(self.answers.load(Relaxed) > 1000, "{}: too few replies", self.name);
        if self.lives_on {
            assert!(anonymous.1 - anonymous.0 <= GROWTH, "{}: its memory grows", self.name);
            assert!(descriptors.1 <= descriptors.0 + 4, "{}: it leaks descriptors", self.name);
            assert!(threads.1 <= threads.0 + 4, "{}: it leaks threads", self.name);
        }
    }
}

pub(crate) fn code_and_thread(reply: &[u8]) -> Option<(u32, usize)> {
    let text = std::str::from_utf8(reply).ok()?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Some((value("Code: ")?.parse().ok()?, value("Thread: ")?.parse().ok().filter(|thread| *thread < 65_536)?))
}
