//! Rate-limited log lines about operations that a reachable store refuses, and about damaged records.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::{error, warn};

use crate::logging::allowance::{Allowance, withheld_note};
use crate::storage::StorageError;
use pyzor_wire::digest::Digest;

/// Logs refused operations and damaged records: 10 lines a minute, because any client can cause them.
#[derive(Debug)]
pub(crate) struct Refusals {
    store: String,
    allowance: Mutex<Allowance>,
}

impl Refusals {
    /// Returns a log whose messages call the store `store`.
    pub(crate) fn new(store: String) -> Self {
        Self { store, allowance: Mutex::new(Allowance::per_minute(10)) }
    }

    /// Logs an operation that the store refused, and returns [`StorageError::Unavailable`].
    pub(crate) fn refused(&self, why: &str) -> StorageError {
        if let Some(withheld) = self.take() {
            warn!("{} refused an operation: {why}{}", self.store, withheld_note(withheld));
        }
        StorageError::Unavailable
    }

    /// Logs a record that cannot be decoded, and returns [`StorageError::Damaged`].
    pub(crate) fn damaged(&self, digest: Digest) -> StorageError {
        if let Some(withheld) = self.take() {
            error!("the record of {digest} in {} is damaged{}", self.store, withheld_note(withheld));
        }
        StorageError::Damaged
    }

    fn take(&self) -> Option<u64> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}
