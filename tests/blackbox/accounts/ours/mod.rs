//! Behaviour that the Python server does not have.

mod files;
mod reloads;

use super::assert_logged;
use crate::harness::Home;

/// Asserts that both the operator log and standard error have a warning with all these parts.
#[track_caller]
fn assert_warned(home: &Home, parts: &[&str]) {
    assert_logged(home, "WARNING", parts);
    let stderr = home.stderr();
    let found = stderr.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "not on stderr: {parts:?}\n{stderr}");
}
