//! Runs every fuzz target with the stable compiler: on the stored corpus, and on seeded mutations of it for a minute in
//! total.
//!
//! `PYZORD_FUZZ_SECONDS` sets the total time, and `PYZORD_FUZZ_SEED` the seed. A failure prints the seed and the bytes.
//! Add a file with these bytes to `fuzz/corpus` to keep the case.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover the functions that tests call"
)]

mod mutator;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pyzord::fuzzing::{TARGETS, run};

use self::mutator::Mutator;

/// The least number of mutations per target, even on a slow machine.
const LEAST: u64 = 500;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The stored inputs of a target, sorted by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(directory().join("corpus").join(target)).expect(target);
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Runs a target on its corpus, and on mutations for its share of the time.
fn check_target(target: &str) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for (name, bytes) in &inputs {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(target, bytes)));
        assert!(outcome.is_ok(), "{target} fails on fuzz/corpus/{target}/{name}");
    }
    let seed = number("PYZORD_FUZZ_SEED", 0x5079_7a6f_7221);
    // Each target gets an equal share, even if the targets run in parallel.
    let share = Duration::from_secs(number("PYZORD_FUZZ_SECONDS", 60)) / TARGETS.len() as u32;
    let start = Instant::now();
    let mut mutator = Mutator::new(seed, &directory().join("words.dict"), inputs);
    let mut rounds = 0;
    while rounds < LEAST || start.elapsed() < share {
        let bytes = mutator.next_input();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(target, bytes)));
        assert!(
            outcome.is_ok(),
            "{target} fails with seed {seed}, mutation {rounds}: b\"{}\"",
            bytes.escape_ascii()
        );
        rounds += 1;
    }
    println!("{target}: {rounds} mutations with seed {seed}");
}

macro_rules! targets {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            check_target(stringify!($name));
        })*
    };
}

targets! { request forward_id forwarded handler signed reply config passwd access servers accounts upstream gdbm_record redis_record mysql_record dsn metrics control control_reply }

#[test]
fn every_target_is_tested_here_and_in_the_fuzz_directory() {
    let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(NAMES, all);
    let manifest = std::fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for name in all {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let main = std::fs::read_to_string(directory().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(main.contains(&format!("run(\"{name}\", bytes)")), "{name}");
    }
}

#[test]
fn corpus_is_small() {
    let inputs = NAMES.iter().flat_map(|target| corpus(target));
    let size: usize = inputs.map(|(_, bytes)| bytes.len()).sum();
    assert!(size < 1 << 20, "{size} bytes");
}

#[test]
fn equal_seeds_give_equal_mutations() {
    let inputs = |seed| {
        let mut mutator = Mutator::new(seed, &directory().join("words.dict"), corpus("request"));
        (0..100).map(|_| mutator.next_input().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
