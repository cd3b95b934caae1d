//! Keys that have been counted, so that a key that a scan returns twice counts once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Hashes of the keys that have been met and of those that have failed. Only the numbers in the output depend on them:
/// records are transferred even if two keys have the same hash (probability about 1 in 400,000 for ten million keys).
#[derive(Debug)]
pub(super) struct SeenKeys {
    /// Hashes of keys that have been met; none if the source returns no key twice, because the set takes 10 to 20 bytes
    /// a key.
    met: Option<HashSet<u64>>,
    failed: HashSet<u64>,
    hasher: RandomState,
}

impl SeenKeys {
    /// Returns an empty set. `repeats` is whether a scan may return a key twice.
    pub(super) fn new(repeats: bool) -> Self {
        Self { met: repeats.then(HashSet::new), failed: HashSet::new(), hasher: RandomState::new() }
    }

    /// Whether a key is met for the first time; remembers it.
    pub(super) fn is_new(&mut self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.met.as_mut().is_none_or(|met| met.insert(hash))
    }

    /// Whether a key fails for the first time; remembers it.
    pub(super) fn is_new_failure(&mut self, key: &[u8]) -> bool {
        self.failed.insert(self.hasher.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_key_is_new_once() {
        let mut seen = SeenKeys::new(true);
        assert_eq!([b"a", b"b", b"a"].map(|key| seen.is_new(key)), [true, true, false]);
        assert_eq!([b"a", b"a"].map(|key| seen.is_new_failure(key)), [true, false]);
        let mut seen = SeenKeys::new(false);
        assert_eq!([b"a", b"a"].map(|key| seen.is_new(key)), [true, true]);
    }
}
