//! Logging what a store that is there refuses, and records that it holds damaged.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::{error, warn};

use crate::logging::allowance::{Allowance, withheld_note};
use crate::storage::StorageError;
use pyzor_wire::digest::Digest;

/// Logs refusals, of which strangers can cause any number.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// The store, for people.
    name: String,
    allowance: Mutex<Allowance>,
}

impl Refusals {
    /// None so far, of the store with this name.
    pub(crate) fn new(name: String) -> Self {
        Self { name, allowance: Mutex::new(Allowance::per_minute(10)) }
    }

    /// Takes note that the store has refused something.
    pub(crate) fn refused(&self, why: &str) -> StorageError {
        if let Some(withheld) = self.take() {
            warn!("{} has refused something: {why}{}", self.name, withheld_note(withheld));
        }
        StorageError::Unavailable
    }

    /// Takes note that a record cannot be decoded.
    pub(crate) fn damaged(&self, digest: Digest) -> StorageError {
        if let Some(withheld) = self.take() {
            error!("the record of {digest} in {} is damaged{}", self.name, withheld_note(withheld));
        }
        StorageError::Damaged
    }

    fn take(&self) -> Option<u64> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}
