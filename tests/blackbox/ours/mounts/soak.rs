//! Servers on all engines under full load for long, with everything going wrong now and then.
//!
//! A few seconds with the other tests; `make soak` takes half an hour and prints what it saw. Nothing may be
//! lost or counted twice, and no server that lives on may grow.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Disk;
use crate::harness::{Account, Home, MariaDb, Process, Redis, digest, eventually, unix_time};
use crate::ours::outages::Store;

/// So many digests are reported, and checked at the end one by one.
const DIGESTS: usize = 2000;
/// How many requests each sender has under way.
const WINDOW: usize = 64;
/// How many times the state of the servers is looked at.
const LOOKS: u32 = 40;
/// How much anonymous memory a server may take more of in the course of the run, in KiB.
const GROWTH: i64 = 2048;

fn duration() -> Duration {
    Duration::from_secs(std::env::var("PYZORD_SOAK_SECONDS").map_or(8, |seconds| seconds.parse().unwrap()))
}

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A server with all that is known of it.
struct Subject {
    name: &'static str,
    home: Home,
    /// The process, which some disturbances replace.
    daemon: Mutex<Process>,
    sent: Vec<AtomicI64>,
    acknowledged: Vec<AtomicI64>,
    answers: AtomicU64,
    refusals: AtomicU64,
    looks: Mutex<Vec<Look>>,
    /// Whether it lives through all of it.
    lives_on: bool,
}

/// What a process has taken at some moment.
#[derive(Clone, Copy)]
struct Look {
    anonymous: i64,
    resident: i64,
    descriptors: i64,
    threads: i64,
}

impl Subject {
    fn new(name: &'static str, home: Home, daemon: Process, lives_on: bool) -> Self {
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

    fn process(&self) -> Process {
        *self.daemon.lock().unwrap()
    }

    /// Keeps a window of requests under way: reports for the most part, some of them signed.
    fn load(&self, bob: &Account, over: &AtomicBool, seed: u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.home.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let mut random = Random(seed);
        // What each thread number in use asked for; none: nothing is counted.
        let mut asked: Vec<Option<Option<usize>>> = vec![None; 65_536];
        let (mut under_way, mut next) = (0, 1024_usize);
        let mut buffer = [0; 1024];
        while !over.load(Relaxed) {
            while under_way < WINDOW {
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
                under_way += 1;
            }
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let Some((code, thread)) = code_and_thread(&buffer[..length]) else { continue };
                    // A late one is not expected any more, and what it says counts all the same.
                    let Some(request) = asked[thread].take() else { continue };
                    under_way = under_way.saturating_sub(1);
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
                // Lost, for whatever reason there is at the moment: begin anew.
                Err(_) => {
                    asked.iter_mut().for_each(|request| *request = None);
                    under_way = 0;
                }
            }
        }
    }

    /// Sends what no client would, none of which may count anything.
    fn send_malformed_requests(&self, over: &AtomicBool, seed: u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.home.port())).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut random = Random(seed);
        // Changed bytes may make a valid report of the third one, and then this is what it counts: with a digit
        // in the place of the blank for instance.
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

    fn look(&self) {
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

    /// Stops it and compares what it acknowledged with what is stored.
    fn settle(&self, stored: &std::collections::BTreeMap<String, i64>) -> String {
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

    /// The medians of a part of the looks.
    fn median(&self, part: impl Fn(usize) -> std::ops::Range<usize>, field: impl Fn(&Look) -> i64) -> i64 {
        let looks = self.looks.lock().unwrap();
        let mut values: Vec<i64> = looks[part(looks.len())].iter().map(field).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    }

    /// Asserts that it takes no more at the end than it did early on, and says what it took.
    fn judge(&self, stored: &str) {
        // The first fifth fills what has a bound.
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
        assert!(self.answers.load(Relaxed) > 1000, "{}: hardly any answer", self.name);
        if self.lives_on {
            assert!(anonymous.1 - anonymous.0 <= GROWTH, "{}: its memory grows", self.name);
            assert!(descriptors.1 <= descriptors.0 + 4, "{}: it loses descriptors", self.name);
            assert!(threads.1 <= threads.0 + 4, "{}: it loses threads", self.name);
        }
    }
}

fn code_and_thread(reply: &[u8]) -> Option<(u32, usize)> {
    let text = std::str::from_utf8(reply).ok()?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Some((value("Code: ")?.parse().ok()?, value("Thread: ")?.parse().ok().filter(|thread| *thread < 65_536)?))
}

/// Takes all the room there is on a disk, or gives it back.
fn fill(disk: &Disk, is_full: bool) {
    let path = disk.path("ballast");
    if is_full {
        let zeros = vec![0; 1 << 20];
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        while std::io::Write::write(&mut file, &zeros).is_ok_and(|written| written > 0) {}
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Reads a pipe, but for the times when it does not.
fn drain(path: &Path, over: &AtomicBool, pauses: &AtomicBool) {
    let mut pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let mut buffer = vec![0; 1 << 16];
    while !over.load(Relaxed) {
        if pauses.load(Relaxed) || !pipe.read(&mut buffer).is_ok_and(|length| length > 0) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Writes passwd and access anew, with an account that only this version has.
fn write_accounts(home: &Home, bob: &Account, version: u32) -> Account {
    let latest = Account::new(&format!("version{version}"));
    home.rewrite("pyzord.passwd", format!("{}{}", bob.passwd(), latest.passwd()));
    home.rewrite("pyzord.access", "all : anonymous : allow\nall : all : allow\n");
    latest
}

/// What goes wrong with the server on gdbm that lives on.
fn disturb_lasting(subject: &Subject, disk: &Disk, pauses: &AtomicBool, bob: &Account, over: &AtomicBool) {
    let mut version = 0;
    let pause = |milliseconds| {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    };
    let limit = |descriptors: &str| {
        let pid = subject.process().pid().to_string();
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={descriptors}")]).status();
        assert!(status.unwrap().success());
    };
    while !over.load(Relaxed) {
        // A hundred signals a second, with the files changing.
        for _ in 0..50 {
            version += 1;
            write_accounts(&subject.home, bob, version);
            subject.process().signal(if version % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
            if version % 10 == 0 {
                let _ = fs::rename(subject.home.path("pyzord.log"), subject.home.path("pyzord.log.1"));
            }
            pause(10);
        }
        fill(disk, true);
        pause(400);
        fill(disk, false);
        pause(300);
        subject.process().signal(Signal::SIGSTOP);
        pause(300);
        subject.process().signal(Signal::SIGCONT);
        pauses.store(true, Relaxed);
        pause(500);
        pauses.store(false, Relaxed);
        limit("3:");
        subject.process().signal(Signal::SIGHUP);
        subject.process().signal(Signal::SIGUSR1);
        pause(300);
        limit("1024:");
        pause(500);
    }
}

/// Kills a server and starts it again, with the clock going forth and back.
fn disturb_killed(subject: &Subject, over: &AtomicBool, start: impl Fn() -> Process) {
    let mut random = Random(4);
    while !over.load(Relaxed) {
        let until = Instant::now() + Duration::from_millis(1000 + random.below(2000));
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        set_clock(&subject.home, ["+0", "+3h", "-5h", "+40d", "-1h"][random.below(5) as usize]);
        if random.below(2) == 0 {
            let daemon = subject.process();
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
            *subject.daemon.lock().unwrap() = start();
        }
    }
}

/// What the clock of a server under libfaketime shows, as a difference to the real one.
fn set_clock(home: &Home, offset: &str) {
    home.rewrite("clock", format!("{offset}\n"));
}

fn faketime() -> PathBuf {
    let directory = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let path = Path::new(&directory).join("libfaketime.so.1");
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Takes a server's store away and brings it back.
fn disturb_store<S: Store>(store: &mut S, over: &AtomicBool) {
    let pause = |milliseconds| {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
    };
    loop {
        pause(3000);
        if over.load(Relaxed) {
            break;
        }
        store.service().kill();
        pause(700);
        store.restart();
        pause(3000);
        store.service().signal(Signal::SIGSTOP);
        pause(1500);
        store.service().signal(Signal::SIGCONT);
    }
}

#[test]
fn servers_under_full_load_and_all_faults_count_right_and_do_not_grow() {
    let bob = Account::new("bob");
    let (mut redis, mut mariadb) = (<Redis as Store>::start(), <MariaDb as Store>::start());

    let home = Home::open();
    let directory = home.directory();
    fs::create_dir(directory.join("disk")).unwrap();
    let pipe = directory.join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    home.rewrite(
        "config",
        "[server]\nLogFile = pyzord.log\nUsageLogFile = pipe\nDigestDB = disk/pyzord.db\n",
    );
    let with_accounts = |home: Home| {
        write_accounts(&home, &bob, 0);
        home
    };
    let lasting = with_accounts(home);
    // The pipe must have a reader when the server opens it.
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let disk = Disk::new(&lasting, directory.join("disk"), 48 * 1024);
    let daemon = lasting.detach_with(disk.inside(&lasting, &lasting.detached()));
    let lasting = Subject::new("gdbm", lasting, daemon, true);

    // Without the usage log, which would fill the disk in half an hour.
    let quiet = |settings: &str| {
        let home = Home::open();
        home.rewrite("config", format!("[server]\nLogFile = pyzord.log\n{settings}"));
        with_accounts(home)
    };
    let killed = quiet("");
    set_clock(&killed, "+0");
    let start_killed = |home: &Home| {
        let mut command = home.detached();
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", home.path("clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        home.detach_with_debug(command)
    };
    let daemon = start_killed(&killed);
    let killed = Subject::new("gdbm, killed", killed, daemon, false);
    let on_store = |name, settings: &str| {
        let home = quiet(settings);
        let daemon = home.detach();
        Subject::new(name, home, daemon, true)
    };
    let on_redis = on_store("redis", &redis.settings());
    let on_mysql = on_store("mysql", &mariadb.settings());
    let subjects = [&lasting, &killed, &on_redis, &on_mysql];

    let (over, pauses) = (AtomicBool::new(false), AtomicBool::new(false));
    /// Ends everything whatever becomes of the test.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let _ends = Ends(&over);
        for (number, subject) in subjects.into_iter().enumerate() {
            let (bob, over) = (&bob, &over);
            scope.spawn(move || subject.load(bob, over, number as u64 + 1));
            scope.spawn(move || subject.send_malformed_requests(over, number as u64 + 101));
        }
        scope.spawn(|| drain(&pipe, &over, &pauses));
        scope.spawn(|| {
            let _ends = Ends(&over);
            disturb_lasting(&lasting, &disk, &pauses, &bob, &over);
        });
        scope.spawn(|| {
            let _ends = Ends(&over);
            disturb_killed(&killed, &over, || start_killed(&killed.home));
        });
        scope.spawn(|| disturb_store(&mut redis, &over));
        scope.spawn(|| disturb_store(&mut mariadb, &over));
        for look in 1..=LOOKS {
            let next = start + duration() * look / LOOKS;
            while Instant::now() < next && !over.load(Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            subjects.iter().for_each(|subject| subject.look());
            if duration() > Duration::from_secs(300) {
                let told = |subject: &&Subject| {
                    let look = *subject.looks.lock().unwrap().last().unwrap();
                    format!("{} {} KiB {}/{}", subject.name, look.anonymous, look.descriptors, look.threads)
                };
                println!(
                    "{:>5} s: {}",
                    start.elapsed().as_secs(),
                    subjects.iter().map(told).collect::<Vec<_>>().join("; ")
                );
            }
        }
        assert!(!over.load(Relaxed), "a disturbance failed");
    });

    // The last files are in force.
    let latest = write_accounts(&lasting.home, &bob, u32::MAX);
    lasting.process().signal(Signal::SIGUSR1);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", lasting.home.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    eventually("the last files", || {
        let _ = socket.send(&latest.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time()));
        let mut reply = [0; 1024];
        let length = socket.recv(&mut reply).ok()?;
        reply[..length].starts_with(b"Code: 200").then_some(())
    });
    for subject in subjects {
        // Whatever was taken away is back.
        let mut caller = subject.home.caller();
        eventually("an answer", || {
            let reply = caller.ask("check", &[&digest(1)], Duration::from_secs(1))?;
            (reply.code() == 200).then_some(())
        });
        subject.process().stop();
    }
    println!("{} s under load:", start.elapsed().as_secs());
    let of_file = |path: PathBuf| {
        let home = Home::new();
        fs::copy(path, home.path("pyzord.db")).unwrap();
        home.stored()
    };
    let told = [
        lasting.settle(&of_file(disk.path("pyzord.db"))),
        killed.settle(&of_file(killed.home.path("pyzord.db"))),
        on_redis.settle(&redis.stored()),
        on_mysql.settle(&mariadb.stored()),
    ];
    for (subject, told) in subjects.into_iter().zip(told) {
        subject.judge(&told);
    }
}
