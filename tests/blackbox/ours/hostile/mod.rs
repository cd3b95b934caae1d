//! A flood of mutated datagrams against a server on each engine, while a well-behaved client (the witness) sends
//! requests.
//!
//! `make hostile` sends ten million datagrams to each and prints the results. `PYZORD_HOSTILE` sets the number of
//! datagrams, and `PYZORD_HOSTILE_SEED` the seed of the mutations.

mod flood;
#[path = "../../../fuzz/mutator.rs"]
mod mutator;

use std::fs;
use std::time::{Duration, Instant};

use self::flood::Flood;
use crate::harness::{Account, Caller, Home, Ledger, MariaDb, Redis, digest, eventually, unix_time};

/// The time-out of the witness: that of the established client.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The allowed growth of memory after the first fifth of a flood: less than a byte per datagram of ten million.
const MARGIN_KIB: i64 = 2048;
/// The size of the connection pool for MariaDB.
const POOL: usize = 4;
/// The number of the digest that only the witness reports.
const WITNESSED: u32 = 4_000_000_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Returns the number of unanswered datagrams by the server's log, and checks that the kernel dropped none.
fn unanswered(name: &str, log: &str) -> u64 {
    let mut sum = 0;
    for line in log.lines().filter(|line| line.contains("Not answered since")) {
        println!("{name}: {line}");
        let (_, numbers) = line.split_once(" report: ").unwrap();
        assert!(!numbers.contains("dropped by the kernel"), "the server did not receive the whole flood");
        sum += numbers
            .split(", ")
            .map(|part| part.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum::<u64>();
    }
    sum
}

/// The resources in use by a process.
#[derive(Debug)]
struct Resources {
    anonymous_kib: i64,
    descriptors: usize,
    threads: usize,
}

impl Resources {
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

/// Floods a server and stops it. Returns the acknowledged reports of the witness and the start of the flood; the caller
/// checks the records.
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
            before = Some(Resources::by(server.pid()));
        }
        flood.send(count - flood.sent);
        let sent = Instant::now();
        // After this reply, the socket of the server holds no datagram of the window.
        let ping = witness.ask("ping", &[], CLIENT_TIMEOUT);
        longest = longest.max(sent.elapsed());
        asked += 1;
        missed += usize::from(ping.is_none());
        // After this reply, few requests still wait for the engine.
        if asked % 8 == 0 {
            let report = witness.ask("report", &[&digest(WITNESSED)], CLIENT_TIMEOUT);
            ledger.enter_doubtful(&digest(WITNESSED), report.as_ref());
        }
        flood.receive();
    }
    let taken = start.elapsed();
    let before = before.unwrap();
    // Resources used during a peak are freed after a while. A pool may have opened all of its connections.
    let after = eventually("descriptors and threads as before", || {
        let after = Resources::by(server.pid());
        (after.descriptors <= before.descriptors + POOL && after.threads <= before.threads).then_some(after)
    });
    assert!(server.stop().success());
    flood.receive();
    let log = home.log();
    println!(
        "{name}: {} datagrams in {:.1} s ({:.0}/s), {} replies (and {} dropped at the client), the longest of {} bytes; \
         {asked} pings, {missed} without a reply, the slowest {} ms; {} reports of the witness acknowledged, {} not; \
         anonymous memory {} to {} KiB, descriptors {} to {}, threads {} to {}",
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
    assert_eq!(missed, 0, "pings of the witness got no reply");
    // A slow database may refuse some.
    assert!(ledger.acknowledged() > ledger.doubtful(), "{} reports refused", ledger.doubtful());
    let sum = unanswered(name, &log) + flood.replies + flood.drops();
    assert_eq!(sum, flood.sent, "the sum of answered datagrams and those the log reports as unanswered");
    let grown = after.anonymous_kib - before.anonymous_kib;
    assert!(grown < MARGIN_KIB, "{grown} KiB more");
    assert!(!log.contains(bob.key()), "the log contains a key");
    (ledger, began)
}

/// A homedir that grants everything to every user, with the account bob. It has no usage log, because that of ten
/// million requests would fill a disk.
fn home(bob: &Account, settings: &str) -> Home {
    Home::new()
        .passwd(bob.passwd())
        .access("all : anonymous : allow\nall : bob : allow\n")
        .file("config", format!("[server]\nLogFile = pyzord.log\n{settings}"))
}

/// A tally as read by another program.
struct Tally {
    count: i64,
    /// The times of the first and the last change, in seconds since the epoch.
    times: Option<[i64; 2]>,
}

/// Checks all records: the digest as stored, the reports and the whitelistings.
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
    let [reports, whitelists] = witnessed.expect("the record of the witness is missing");
    assert_eq!(whitelists.count, 0);
    ledger.compare(&[(digest(WITNESSED), reports.count)].into());
}

#[test]
fn flood_of_mutated_datagrams_does_not_corrupt_gdbm() {
    let bob = Account::new("bob");
    let home = home(&bob, "");
    let seen = flood("gdbm", &home, &bob);
    // Version 1, then the count, the first and the last time of each tally.
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

/// Parses lines of seven fields: the digest, then the count, the first and the last time of each tally.
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
fn flood_of_mutated_datagrams_does_not_corrupt_redis() {
    let redis = Redis::start();
    let bob = Account::new("bob");
    let home = home(&bob, &format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let seen = flood("redis", &home, &bob);
    // All keys without their prefix, with the fields of their hashes.
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
fn flood_of_mutated_datagrams_does_not_corrupt_mariadb() {
    // Without an fsync per transaction, which would dominate the time of the test.
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
