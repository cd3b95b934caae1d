//! The waiting times of requests while many records expire at once.
//!
//! `make pauses` runs these tests with a million records and prints the measurements.

use std::fmt;
use std::time::{Duration, Instant};

use crate::harness::{Caller, Home, MariaDb, Redis, digest, unix_time};
use crate::ours::outages::Store;

/// Number of digests that are reported and checked meanwhile, and do not expire.
const FRESH: u32 = 1000;
/// Duration of a measurement without expiry.
const QUIET: Duration = Duration::from_secs(3);
const LONGEST_EXPIRY: Duration = Duration::from_secs(300);

fn records() -> u32 {
    std::env::var("PYZORD_PAUSE_RECORDS").map_or(5000, |number| number.parse().unwrap())
}

/// The waiting times of requests.
struct Waits(Vec<Duration>);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize].as_micros();
        write!(f, "{}: median {} us, 99.9 % {} us, longest {} us", sorted.len(), at(0.5), at(0.999), at(1.0))
    }
}

/// Checks and reports records that stay, in turn, until `enough`. Returns the number of records reported.
fn ask_until(caller: &mut Caller, what: &str, mut enough: impl FnMut() -> bool) -> u32 {
    let (mut checks, mut reports) = (Waits(Vec::new()), Waits(Vec::new()));
    let start = Instant::now();
    let mut number = 0;
    loop {
        number += 1;
        let digest = digest(number % FRESH);
        for (operation, waits) in [("check", &mut checks), ("report", &mut reports)] {
            let asked = Instant::now();
            let reply = caller.answered(operation, &[&digest]);
            waits.0.push(asked.elapsed());
            assert_eq!(reply.code(), 200, "{operation} {what}");
        }
        if number % 100 == 0 && enough() {
            break;
        }
        assert!(start.elapsed() < LONGEST_EXPIRY, "not finished in time: {what}");
    }
    println!("{what}: checks {checks}; reports {reports}");
    number.min(FRESH)
}

/// Measures without expiry, for comparison. Returns the number of records reported.
fn quiet(caller: &mut Caller) -> u32 {
    let start = Instant::now();
    ask_until(caller, "without expiry", || start.elapsed() > QUIET)
}

#[test]
fn requests_are_served_while_records_expire_from_a_table() {
    let store = MariaDb::start();
    let home = Home::open().config(&store.settings());
    // The first start creates the table.
    assert!(home.start().stop().success());
    let records = records();
    store.sql(&format!(
        "USE pyzor; INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT SHA1(seq), 1, 0, \
         NOW() - INTERVAL 200 DAY, NOW() - INTERVAL 199 DAY FROM seq_1_to_{records}"
    ));
    let server = home.start();
    let mut caller = Caller::to(server.port());
    let expired = || home.log().contains(&format!(" INFO Expiry: removed {records} of "));
    let meanwhile = ask_until(&mut caller, &format!("while {records} records expire from a table"), expired);
    let left = quiet(&mut caller).max(meanwhile);
    drop(server);
    assert_eq!(store.sql("SELECT COUNT(*) FROM pyzor.digests"), format!("{left}\n"));
    println!("{}", home.log().lines().find(|line| line.contains(" INFO Expiry: ")).unwrap());
}

#[test]
fn requests_are_served_while_records_expire_from_redis() {
    const AT_ONCE: u32 = 5000;
    let store = Redis::start();
    let home = Home::open().config(&store.settings());
    let server = home.start();
    let records = records();
    // All records expire in the same second, after all of them have been stored.
    let moment = unix_time() + 2 + i64::from(records) / 50_000;
    for first in (0..records).step_by(AT_ONCE as usize) {
        let last = (first + AT_ONCE).min(records) - 1;
        let script = format!(
            "for n = {first}, {last} do local key = 'pyzord.digest_v1.' .. redis.sha1hex(n) \
             redis.call('HSET', key, 'r_count', 1, 'r_entered', 1, 'r_updated', 1) \
             redis.call('EXPIREAT', key, {moment}) end"
        );
        store.cli(&["eval", &script, "0"]);
    }
    let mut caller = Caller::to(server.port());
    let size = || store.cli(&["dbsize"]).trim().parse::<u32>().unwrap();
    let expired = || unix_time() > moment && size() <= FRESH;
    let meanwhile = ask_until(&mut caller, &format!("while {records} records expire from Redis"), expired);
    let left = quiet(&mut caller).max(meanwhile);
    assert!(server.stop().success());
    assert_eq!(size(), left);
}
