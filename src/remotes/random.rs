//! Unpredictable numbers for requests.

use std::hash::{BuildHasher, RandomState};

/// The lowest `Thread` of a request, and the number of different ones.
pub(crate) const LOWEST_THREAD: u16 = 1024;
const THREADS: u64 = 65_536 - LOWEST_THREAD as u64;

/// Numbers from a keyed hash function. Those who know some of them cannot tell the others.
#[derive(Debug, Default)]
pub(crate) struct RandomNumbers {
    hasher: RandomState,
    taken: u64,
}

impl RandomNumbers {
    /// Returns a number below `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.taken = self.taken.wrapping_add(1);
        self.hasher.hash_one(self.taken) % limit
    }

    /// Returns a number for `Thread`.
    pub(crate) fn thread(&mut self) -> u16 {
        LOWEST_THREAD + u16::try_from(self.below(THREADS)).unwrap_or(0)
    }
}
