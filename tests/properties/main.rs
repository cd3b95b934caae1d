//! Property tests: proptest generates random values and reduces failures to the smallest case.
//!
//! The values are the same in every run, unless `PROPTEST_RNG_SEED` is set. `PROPTEST_CASES` sets their number.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover the functions that tests call"
)]

mod batches;
mod rules;
mod times;

use proptest::test_runner::{Config, RngSeed};

/// Returns the configuration for this many values, unless the environment sets another number.
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
