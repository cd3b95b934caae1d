//! A flood of mutated datagrams against a server on each engine, and a witness who asks all the while.
//!
//! `make hostile` sends ten million to each and prints what it saw. `PYZORD_HOSTILE` is how many that are, and
//! `PYZORD_HOSTILE_SEED` where the mutations begin.

mod flood;
#[path = "../../../fuzz/mutator.rs"]
mod mutator;

use std::fs;
use std::time::{Duration, Instant};

use self::flood::Flood;
use crate::harness::{Account, Caller, Home, Ledger, MariaDb, Redis, digest, eventually, unix_time};

/// How long the witness waits, as the established client does.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// By how much memory may grow from the first fifth of a flood to its end: less than a byte a datagram for ten
/// million of them.
const MARGIN_KIB: i64 = 2048;
/// How many connections there are to MariaDB.
const POOL: usize = 4;
/// What only the witness reports.
const WITNESSED: u32 = 4_000_000_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
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
        let count = |directory| fs::read_dir(format!("/proc/{pid}/{directory}")).unwrap().count();
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
        let ping = witness.ask("ping", &[], CLIENT_TIMEOUT);
        longest = longest.max(sent.elapsed());
        asked += 1;
        missed += usize::from(ping.is_none());
        // And behind this one not much is left that waits for the engine.
        if asked % 8 == 0 {
            let report = witness.ask("report", &[&digest(WITNESSED)], CLIENT_TIMEOUT);
            ledger.enter_doubtful(&digest(WITNESSED), report.as_ref());
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
        "{name}: {} datagrams in {:.1} s ({:.0}/s), {} replies (and {} that found no room), the longest of {} bytes; {asked} pings, {missed} \
         of them missed, the longest {} ms; {} reports of the witness acknowledged, {} not; anonymous memory {} to {} KiB, \
         descriptors {} to {}, threads {} to {}",
        flood.sent,
        taken.as_secs_f64(),
        flood.sent as f64 / taken.as_secs_f64(),
        flood.replies,
        flood.drops(),
        flood.longest,
        longest.as_millis(),
        ledger.acknowledged(),
        ledger.doubtful(),
        before.anonymous_kib,
        after.anonymous_kib,
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
    );
    assert_eq!(missed, 0, "pings of a bystander got no reply");
    // A slow database may refuse some.
    assert!(ledger.acknowledged() > ledger.doubtful(), "{} reports refused", ledger.doubtful());
    let sum = unanswered(name, &log) + flood.replies + flood.drops();
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
            witnessed = Some(tallies);
        }
    }
    println!("{name}: {} records", records.len());
    assert!(records.len() > 50);
    let [reports, whitelists] = witnessed.expect("what the witness has reported");
    assert_eq!(whitelists.count, 0);
    ledger.compare(&[(digest(WITNESSED), reports.count)].into());
}

#[test]
fn a_flood_of_mutated_datagrams_leaves_gdbm_sound() {
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
