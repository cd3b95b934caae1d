//! Properties that hold for all values, tried on many: proptest makes them, and the smallest that fails.
//!
//! The values are the same in every run, unless the environment variable `PROPTEST_RNG_SEED` says otherwise;
//! `PROPTEST_CASES` is how many there are.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover the functions that tests call"
)]

mod batches;
mod rules;
mod times;

use proptest::test_runner::{Config, RngSeed};

/// So many values, unless the environment says otherwise.
fn cases(default: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = default;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x7079_7a6f_7264);
    }
    config
}
