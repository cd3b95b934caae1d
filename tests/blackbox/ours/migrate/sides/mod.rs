//! Databases of each engine.

mod gdbm;
mod mysql;
mod redis;

pub(super) use gdbm::Gdbm;
pub(super) use mysql::{COLUMNS, MySql};
pub(super) use redis::{Hashes, Texts};

use super::{Planted, Record, SECOND, THEN, Tally, digest, tally};

/// Gives each record the digest of its index.
fn numbered(records: Vec<(String, Record)>) -> Vec<Planted> {
    let planted = |(at, (raw, says)): (usize, (String, Record))| Planted {
        key: digest(u32::try_from(at).unwrap() + 1).into_bytes(),
        raw: raw.into_bytes(),
        says: Some(says),
    };
    records.into_iter().enumerate().map(planted).collect()
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Counts at the limits of the engines, and a negative one.
const COUNTS: [i64; 6] = [1, 2_147_483_647, 2_147_483_648, 4_294_967_296, i64::MAX, -7];

/// A record with whitelistings only.
fn whitelisted() -> Record {
    Record { whitelists: tally(2, THEN, THEN + SECOND), ..Record::default() }
}

/// Counts without times.
fn timeless() -> Record {
    let count = |count| Tally { count, ..Tally::default() };
    Record { reports: count(4), whitelists: count(2) }
}

/// A first time without a last one, and the reverse.
fn half_timed() -> Record {
    let reports = Tally { count: 4, first: Some(THEN), last: None };
    Record { reports, whitelists: Tally { count: 3, first: None, last: Some(THEN) } }
}

/// A count of 0 with times.
fn counted_down() -> Record {
    Record { reports: tally(0, THEN, THEN + SECOND), whitelists: tally(1, THEN, THEN) }
}
