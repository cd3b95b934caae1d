//! Forwarding to other servers: scripted ones, and established ones with their log and database.

mod addresses;
mod checks;
mod directory;
mod established;
mod hostile;
mod ids;
mod independence;
mod killed;
mod mounts;
mod observed;
mod operations;
mod outages;
mod refusals;
mod reloads;
mod requests;
mod retries;
mod root;
mod stops;
mod wiring;

use std::ops::Range;

use crate::harness::{Caller, digest};

/// Reports a digest for each number, one request each, which must be accepted.
#[track_caller]
fn report(port: u16, numbers: Range<u32>) {
    let mut caller = Caller::to(port);
    for number in numbers {
        assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
    }
}

/// Reports a digest for each number, many in one request, which must be accepted.
#[track_caller]
fn report_together(port: u16, numbers: Range<u32>) {
    let mut caller = Caller::to(port);
    let digests: Vec<String> = numbers.map(digest).collect();
    for some in digests.chunks(100) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        assert_eq!(caller.answered("report", &some).code(), 200);
    }
}
