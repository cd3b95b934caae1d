//! What background work finds out about a store on another machine, for operators.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::storage::{EngineStatus, ExpiryStatus, ExpiryTimes, one_line};

/// Time between two measurements of a store.
pub(crate) const MEASURING_PERIOD: Duration = Duration::from_secs(60);
/// Time between two checks for a reason to measure earlier.
pub(crate) const MEASURING_STEP: Duration = Duration::from_secs(1);

/// The size of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreSize {
    /// The number of records; none if it is unknown.
    pub(crate) records: Option<u64>,
    /// The size in bytes; none if it is unknown.
    pub(crate) bytes: Option<u64>,
}

/// The last size of a store, its expiry, and its problems. The lock is held for a few instructions only.
#[derive(Debug, Default)]
pub(crate) struct StoreFindings(Mutex<KnownFindings>);

#[derive(Debug, Default)]
struct KnownFindings {
    size: StoreSize,
    expiry: ExpiryTimes,
    problems: Vec<String>,
}

impl StoreFindings {
    /// Records the size of the store.
    pub(crate) fn measured(&self, size: StoreSize) {
        self.lock().size = size;
    }

    /// Records a problem that an operator must know.
    pub(crate) fn problem(&self, text: &str) {
        self.lock().problems.push(one_line(text));
    }

    /// Records the time of the next expiry.
    pub(crate) fn expiry_planned(&self, next: Instant) {
        self.lock().expiry.plan(next);
    }

    /// Records the end of an expiry, and the time of the next one.
    pub(crate) fn expiry_ended(&self, result: ExpiryStatus, next: Instant) {
        self.lock().expiry.ended(result, next);
    }

    /// Adds everything to a status.
    pub(crate) fn describe(&self, status: &mut EngineStatus, now: Instant) {
        let known = self.lock();
        (status.records, status.bytes) = (known.size.records, known.size.bytes);
        status.problems.extend(known.problems.iter().cloned());
        known.expiry.describe(status, now);
    }

    fn lock(&self) -> MutexGuard<'_, KnownFindings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
