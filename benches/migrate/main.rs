//! Measures the speed of `pyzor-migrate`, compared with the databases' own programs on the same records.
//!
//! Run by `make migrations` or `cargo bench --bench migrate`; prints tables in Markdown. A migration cannot be faster
//! than the slower of its two sides: the source's own program that exports all records, and the destination's own
//! program that imports them. Both are measured in the same rounds as the migrations. A ratio of 0.5 means that the
//! migration took twice as long as the slower side.
//!
//! `PYZORD_MIGRATION_RECORDS` is the number of records (default 1,000,000), `PYZORD_MIGRATION_ROUNDS` the number of
//! rounds (default 3).

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed measurement panics with its location")]

mod arena;
#[path = "../../tests/blackbox/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "parts that only tests use")]
mod harness;
mod inputs;
mod migration;
mod reference;
mod table;

use std::env;
use std::time::Duration;

use crate::arena::Arena;
use crate::migration::Migration;
use crate::reference::{REFERENCES, Reference};
use crate::table::{median, print, seconds};

const PAIRS: [(&str, &str); 4] = [("gdbm", "redis"), ("redis", "mysql"), ("mysql", "gdbm"), ("gdbm", "gdbm")];

fn main() {
    let number = |name, default| env::var(name).map_or(default, |number| number.parse().unwrap());
    let (records, rounds) =
        (number("PYZORD_MIGRATION_RECORDS", 1_000_000), number("PYZORD_MIGRATION_ROUNDS", 3));
    let arena = Arena::new(records);
    let mut references: Vec<(Reference, Vec<Duration>)> =
        REFERENCES.into_iter().map(|reference| (reference, Vec::new())).collect();
    let mut migrations: Vec<Vec<Migration>> = PAIRS.map(|_| Vec::new()).into();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (reference, times) in &mut references {
            times.push((reference.run)(&arena));
            eprintln!("  {} {}: {:.2} s", reference.engine, reference.name, seconds(times[times.len() - 1]));
        }
        for (pair, results) in PAIRS.iter().zip(&mut migrations) {
            let migration = arena.migrate(*pair);
            eprintln!("  {} to {}: {:.2} s", pair.0, pair.1, seconds(migration.time));
            results.push(migration);
        }
    }
    let references: Vec<(Reference, Duration)> =
        references.into_iter().map(|(reference, times)| (reference, median(times))).collect();
    print(&arena, rounds, &references, migrations);
}
