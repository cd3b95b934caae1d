//! A flood of mutated datagrams against a server on each engine, and a witness who asks all the while.
//!
//! `make hostile` sends ten million to each and prints what it saw. `PYZORD_HOSTILE` is how many that are, and
//! `PYZORD_HOSTILE_SEED` where the mutations begin.

#[path = "../fuzz/mutator.rs"]
mod mutator;

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};

use self::mutator::Mutator;
use crate::harness::{Account, Home, MariaDb, Redis, Server, eventually, ours_only, unix_time};
use crate::support::{Caller, Ledger, digest};

/// What is sent before the witness asks: less than the server's socket has room for, so that every datagram
/// gets to it.
const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 96 * 1024;
/// How long the witness waits, as the established client does.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many different signed requests there are at a time, and for how long: their time must stay valid.
const SIGNED: usize = 20;
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// By how much memory may grow from the first fifth of a flood to its end: less than a byte a datagram for ten
/// million of them.
const MARGIN_KIB: i64 = 2048;
/// How many connections there are to MariaDB.
const POOL: usize = 4;
/// More of a reply than any server sends but for a long `Thread`.
const REPLY: usize = 16_384;
/// What only the witness reports.
const WITNESSED: u32 = 4_000_000_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Requests of all kinds, valid ones and others, and replies.
fn corpus(bob: &Account) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
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

/// Who sends the flood.
struct Flood {
    socket: UdpSocket,
    mutator: Mutator,
    bob: Account,
    signed: Instant,
    window: Vec<Vec<u8>>,
    headers: MultiHeaders<()>,
    room: Vec<u8>,
    sent: u64,
    replies: u64,
    longest: usize,
}

impl Flood {
    fn new(server: &Server, bob: Account, seed: u64) -> Self {
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
    fn send(&mut self, most: u64) {
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
        let slices: Vec<_> = self.window[..count].iter().map(|datagram| [IoSlice::new(datagram)]).collect();
        let mut sent = 0;
        while sent < count {
            let flags = MsgFlags::empty();
            let socket = self.socket.as_raw_fd();
            let addresses = vec![None; count - sent];
            sent +=
                sendmmsg(socket, &mut self.headers, &slices[sent..], addresses, [], flags).unwrap().count();
        }
        self.sent += count as u64;
    }

    /// Takes what has been answered so far and looks at it.
    fn receive(&mut self) {
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
}

/// How many datagrams the kernel had no room for in this socket.
fn drops(socket: &UdpSocket) -> u64 {
    let port = socket.local_addr().unwrap().port();
    let table = fs::read_to_string("/proc/net/udp").unwrap();
    let has_port = |line: &&str| {
        let local = line.split_whitespace().nth(1).and_then(|local| local.split(':').nth(1));
        local.is_some_and(|local| local == format!("{port:04X}"))
    };
    let line = table.lines().find(has_port).expect("a socket that the kernel knows");
    line.split_whitespace().next_back().unwrap().parse().unwrap()
}

/// How many datagrams were not answered, by the log of the server, into whose socket all of them came.
fn unanswered(name: &str, log: &str) -> u64 {
    let mut sum = 0;
    for line in log.lines().filter(|line| line.contains("Not answered since")) {
        println!("{name}: {line}");
        let (_, numbers) = line.split_once(" line: ").unwrap();
        let mut numbers =
            numbers.split(", ").map(|part| part.split(' ').next().unwrap().parse::<u64>().unwrap());
        assert_eq!(numbers.next(), Some(0), "not all of the flood got to the server");
        sum += numbers.sum::<u64>();
    }
    sum
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

/// What a process has taken of the system.
#[derive(Debug)]
struct Taken {
    anonymous_kib: i64,
    descriptors: usize,
    threads: usize,
}

impl Taken {
    fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let count = |folder| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        Self {
            anonymous_kib: line.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// Floods a server with these settings, and stops it; its records are the caller's to look at. Returns what the
/// witness had acknowledged, and when the flood began.
fn flood(name: &str, home: &Home, bob: &Account) -> (Ledger, i64) {
    let count = number("PYZORD_HOSTILE", 100_000);
    let seed = number("PYZORD_HOSTILE_SEED", 0x5079_7a6f_7221);
    println!("{name}: seed {seed}");
    let began = unix_time();
    let server = home.start();
    let mut flood = Flood::new(&server, bob.clone(), seed);
    let mut witness = Caller::to(server.port());
    let mut ledger = Ledger::default();
    let (mut asked, mut missed, mut longest) = (0, 0, Duration::ZERO);
    let mut before = None;
    let start = Instant::now();
    while flood.sent < count {
        if flood.sent >= count / 5 && before.is_none() {
            before = Some(Taken::by(server.pid()));
        }
        flood.send(count - flood.sent);
        let sent = Instant::now();
        // Behind this answer nothing of the window is left in the socket.
        let ping = witness.ask("ping", &[], PATIENCE);
        longest = longest.max(sent.elapsed());
        asked += 1;
        missed += usize::from(ping.is_none());
        // And behind this one not much is left that waits for the engine.
        if asked % 8 == 0 {
            let report = witness.ask("report", &[&digest(WITNESSED)], PATIENCE);
            missed += usize::from(report.is_none());
            ledger.enter(&digest(WITNESSED), report.as_ref());
        }
        flood.receive();
    }
    let taken = start.elapsed();
    let before = before.unwrap();
    // What a peak needed goes after a while; a pool may have opened all of its connections since.
    let after = eventually("descriptors and threads as before", || {
        let after = Taken::by(server.pid());
        (after.descriptors <= before.descriptors + POOL && after.threads <= before.threads).then_some(after)
    });
    assert!(server.stop().success());
    flood.receive();
    let log = home.log();
    println!(
        "{name}: {} datagrams in {:.1} s ({:.0}/s), {} replies (and {} that found no room), the longest of {} bytes; {asked} pings, \
         {missed} requests of the witness missed, the longest ping {} ms; {} reports acknowledged; anonymous memory {} to {} KiB, \
         descriptors {} to {}, threads {} to {}",
        flood.sent,
        taken.as_secs_f64(),
        flood.sent as f64 / taken.as_secs_f64(),
        flood.replies,
        drops(&flood.socket),
        flood.longest,
        longest.as_millis(),
        ledger.acknowledged(),
        before.anonymous_kib,
        after.anonymous_kib,
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
    );
    assert_eq!(missed, 0, "requests of a bystander got no reply");
    let sum = unanswered(name, &log) + flood.replies + drops(&flood.socket);
    assert_eq!(sum, flood.sent, "datagrams that were answered or, by the log, not");
    let grown = after.anonymous_kib - before.anonymous_kib;
    assert!(grown < MARGIN_KIB, "{grown} KiB more");
    assert!(!log.contains(bob.key()), "the log has a key");
    (ledger, began)
}

/// A homedir in which everybody may do everything and bob may sign. Without the log of all requests, which ten
/// million fill a disk with.
fn home(bob: &Account, settings: &str) -> Home {
    Home::new()
        .passwd(bob.passwd())
        .access("all : anonymous : allow\nall : bob : allow\n")
        .file("config", format!("[server]\nLogFile = pyzord.log\n{settings}"))
}

/// A tally as another program has read it.
struct Tally {
    count: i64,
    /// When it changed first and last, in seconds since the epoch, if ever.
    times: Option<[i64; 2]>,
}

/// Looks at all records: the digest as it is stored, reports, whitelists.
fn check_records(name: &str, records: &[(String, [Tally; 2])], (ledger, began): &(Ledger, i64)) {
    let now = unix_time();
    let mut witnessed = None;
    for (digest, tallies) in records {
        assert!(
            digest.len() == 40 && digest.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
            "{digest:?}"
        );
        for tally in tallies {
            let is_sane = match tally.times {
                None => tally.count == 0,
                Some([first, last]) => tally.count > 0 && *began <= first && first <= last && last <= now,
            };
            assert!(is_sane, "{digest}: {} since {:?}, the test since {began}", tally.count, tally.times);
        }
        if *digest == self::digest(WITNESSED) {
            witnessed = Some((tallies[0].count, tallies[1].count));
        }
    }
    println!("{name}: {} records", records.len());
    assert!(records.len() > 100);
    assert_eq!(witnessed, Some((ledger.acknowledged(), 0)));
}

#[test]
fn a_flood_of_mutated_datagrams_leaves_gdbm_sound() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let home = home(&bob, "");
    let seen = flood("gdbm", &home, &bob);
    // Version 1, then of each tally the count, its first and its last time.
    let tally = |fields: &[&str]| {
        let time = |text: &str| {
            let date: jiff::civil::DateTime = text.parse().expect(text);
            date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second()
        };
        let times = (fields[1..] != ["None"; 2]).then(|| [time(fields[1]), time(fields[2])]);
        Tally { count: fields[0].parse().unwrap(), times }
    };
    let record = |(key, value): (Vec<u8>, Vec<u8>)| {
        let value = String::from_utf8(value).unwrap();
        let fields: Vec<_> = value.split(',').collect();
        assert!(fields.len() == 7 && fields[0] == "1", "{value}");
        (String::from_utf8(key).unwrap(), [tally(&fields[1..4]), tally(&fields[4..7])])
    };
    let records: Vec<_> = home.database().read().into_iter().map(record).collect();
    check_records("gdbm", &records, &seen);
}

/// The records of lines of seven fields: the digest, then of each tally the count, its first and its last time.
fn of_lines(text: &str, separator: char) -> Vec<(String, [Tally; 2])> {
    let tally = |fields: &[&str]| {
        let times = (!["", "NULL"].contains(&fields[1]))
            .then(|| [fields[1].parse().expect(fields[1]), fields[2].parse().expect(fields[2])]);
        Tally { count: fields[0].parse().unwrap_or_default(), times }
    };
    let record = |line: &str| {
        let fields: Vec<_> = line.split(separator).collect();
        assert_eq!(fields.len(), 7, "{line:?}");
        (fields[0].to_owned(), [tally(&fields[1..4]), tally(&fields[4..7])])
    };
    text.lines().filter(|line| !line.is_empty()).map(record).collect()
}

#[test]
fn a_flood_of_mutated_datagrams_leaves_redis_sound() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let bob = Account::new("bob");
    let home = home(&bob, &format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let seen = flood("redis", &home, &bob);
    // Every key there is, with what follows the prefix first.
    let lines = "local lines = {} \
                 for _, key in ipairs(redis.call('KEYS', '*')) do \
                   local line = {(string.gsub(key, '^pyzord%.digest_v1%.', ''))} \
                   for _, field in ipairs({'r_count', 'r_entered', 'r_updated', 'wl_count', 'wl_entered', 'wl_updated'}) do \
                     line[#line + 1] = redis.call('HGET', key, field) or '' \
                   end \
                   lines[#lines + 1] = table.concat(line, ',') \
                 end \
                 return lines";
    check_records("redis", &of_lines(&redis.cli(&["eval", lines, "0"]), ','), &seen);
}

#[test]
fn a_flood_of_mutated_datagrams_leaves_mariadb_sound() {
    if !ours_only() {
        return;
    }
    // The disk would say how long it takes.
    let mariadb = MariaDb::with("--innodb-flush-log-at-trx-commit=0");
    let bob = Account::new("bob");
    let dsn = format!("127.0.0.1:{},pyzor,secret,pyzor,digests", mariadb.port());
    let home = home(&bob, &format!("Engine = mysql\nDigestDB = {dsn}\n"));
    let seen = flood("mariadb", &home, &bob);
    let rows = mariadb.sql(
        "SELECT digest, r_count, UNIX_TIMESTAMP(r_entered), UNIX_TIMESTAMP(r_updated), wl_count, \
         UNIX_TIMESTAMP(wl_entered), UNIX_TIMESTAMP(wl_updated) FROM pyzor.digests",
    );
    check_records("mariadb", &of_lines(&rows, '\t'), &seen);
}
