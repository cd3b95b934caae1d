//! What a store that is there does not do, for the log and for whoever asks how it is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::{error, warn};

use crate::allowance::{Allowance, more};
use crate::storage::StorageError;
use pyzor_wire::digest::Digest;

/// Keeps track of refusals; strangers can cause any number of them.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// The store, for people.
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    allowance: Allowance,
    last: Option<String>,
}

impl Refusals {
    /// None so far, of the store with this name.
    pub(crate) fn new(name: String) -> Self {
        Self { name, state: Mutex::new(State { allowance: Allowance::per_minute(10), last: None }) }
    }

    /// Takes note that the store has refused something.
    pub(crate) fn refused(&self, why: &str) -> StorageError {
        let mut state = self.lock();
        state.last = Some(why.to_owned());
        if let Some(withheld) = state.allowance.take(Instant::now()) {
            warn!("{} has refused something: {why}{}", self.name, more(withheld));
        }
        StorageError::Unavailable
    }

    /// Takes note that a record cannot be decoded.
    pub(crate) fn damaged(&self, digest: Digest) -> StorageError {
        if let Some(withheld) = self.lock().allowance.take(Instant::now()) {
            error!("the record of {digest} in {} is damaged{}", self.name, more(withheld));
        }
        StorageError::Damaged
    }

    /// Takes note that a change was accepted.
    pub(crate) fn accepted(&self) {
        self.lock().last = None;
    }

    /// Why something was refused since a change was accepted last.
    pub(crate) fn last(&self) -> Option<String> {
        self.lock().last.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
