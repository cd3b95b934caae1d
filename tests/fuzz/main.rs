//! Every fuzz target, on any compiler: the kept corpus, and seeded mutations of it for a minute in all.
//!
//! The environment variable `PYZORD_FUZZ_SECONDS` is how long that is, and `PYZORD_FUZZ_SEED` where the mutations
//! begin. A failure prints both the seed and the bytes, which a file of these bytes in `fuzz/corpus` keeps.

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

/// How many mutations there are of each target, however slow the machine is.
const LEAST: u64 = 500;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The kept inputs of a target, in the order of their names.
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

/// Replays the corpus of a target, and mutates it for its share of the time.
fn examine(target: &str) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for (name, bytes) in &inputs {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(target, bytes)));
        assert!(outcome.is_ok(), "{target} fails on fuzz/corpus/{target}/{name}");
    }
    let seed = number("PYZORD_FUZZ_SEED", 0x5079_7a6f_7221);
    // The targets share the time whether they run one after the other or not.
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
            examine(stringify!($name));
        })*
    };
}

targets! { request handler signed reply config passwd access gdbm_record redis_record mysql_record dsn }

#[test]
fn every_target_is_examined_and_can_be_fuzzed() {
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
fn the_corpus_is_small() {
    let inputs = NAMES.iter().flat_map(|target| corpus(target));
    let size: usize = inputs.map(|(_, bytes)| bytes.len()).sum();
    assert!(size < 1 << 20, "{size} bytes");
}

#[test]
fn mutations_are_the_same_with_the_same_seed() {
    let inputs = |seed| {
        let mut mutator = Mutator::new(seed, &directory().join("words.dict"), corpus("request"));
        (0..100).map(|_| mutator.next_input().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
