//! What has been counted, so that a key that a scan meets twice counts once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Keys that have been met. Only what is told depends on it: a key that is taken for another one, of which the
/// chance is less than one in a million for ten million keys, is moved all the same.
#[derive(Debug)]
pub(super) struct SeenKeys {
    /// Nothing where no key comes twice: it takes 10 to 20 bytes a key.
    met: Option<HashSet<u64>>,
    failed: HashSet<u64>,
    hasher: RandomState,
}

impl SeenKeys {
    /// Nothing has been met; `repeats` is whether a key may come twice.
    pub(super) fn new(repeats: bool) -> Self {
        Self { met: repeats.then(HashSet::new), failed: HashSet::new(), hasher: RandomState::new() }
    }

    /// Whether a key is met for the first time.
    pub(super) fn is_new(&mut self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.met.as_mut().is_none_or(|met| met.insert(hash))
    }

    /// Whether a key fails for the first time.
    pub(super) fn is_new_failure(&mut self, key: &[u8]) -> bool {
        self.failed.insert(self.hasher.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_is_new_once() {
        let mut seen = SeenKeys::new(true);
        assert_eq!([b"a", b"b", b"a"].map(|key| seen.is_new(key)), [true, true, false]);
        assert_eq!([b"a", b"a"].map(|key| seen.is_new_failure(key)), [true, false]);
        let mut seen = SeenKeys::new(false);
        assert_eq!([b"a", b"a"].map(|key| seen.is_new(key)), [true, true]);
    }
}
