//! Walks over all keys of a file, and deletions during a walk.

use std::collections::VecDeque;

use super::file::handle::{GdbmError, Handle};
use pyzor_wire::digest::Digest;

/// The smallest size of an element of a bucket, which bounds the number of keys in a bucket of one block.
const SMALLEST_ELEMENT: usize = 16;

/// A walk over all keys, in the file's own order.
#[derive(Debug, Default)]
pub(super) struct KeyWalk {
    position: WalkPosition,
    visited: u64,
}

#[derive(Debug, Default)]
enum WalkPosition {
    #[default]
    Start,
    At(Vec<u8>),
    End,
}

impl KeyWalk {
    /// Returns a walk that continues after `key`, with which an earlier walk had visited so many keys.
    pub(super) fn after(key: Vec<u8>, visited: u64) -> Self {
        Self { position: WalkPosition::At(key), visited }
    }

    /// Returns the next key, or none at the end.
    pub(super) fn next(&mut self, handle: &mut Handle) -> Result<Option<&[u8]>, GdbmError> {
        let (key, found) = match std::mem::take(&mut self.position) {
            WalkPosition::Start => {
                let mut key = Vec::new();
                let found = handle.first_key(&mut key)?;
                (key, found)
            }
            WalkPosition::At(mut key) => {
                let found = handle.next_key(&mut key)?;
                (key, found)
            }
            WalkPosition::End => (Vec::new(), false),
        };
        self.position = if found { WalkPosition::At(key) } else { WalkPosition::End };
        match &self.position {
            WalkPosition::At(key) => {
                self.visited += 1;
                Ok(Some(key))
            }
            _ => Ok(None),
        }
    }

    /// Returns the number of keys visited.
    pub(super) fn visited(&self) -> u64 {
        self.visited
    }
}

/// Deletions that wait until a walk has left the bucket of their key.
///
/// A deletion moves other keys within the bucket, and a walk through that bucket would then miss some. So a key is
/// deleted only after the walk has visited more keys since than a bucket can hold.
#[derive(Debug)]
pub(super) struct DelayedDeletions<T> {
    /// The pending deletions, each with the number of keys visited when it was added.
    waiting: VecDeque<(u64, T)>,
    /// Number of further keys after which the walk has left a bucket.
    distance: u64,
}

impl<T> DelayedDeletions<T> {
    /// Returns an empty queue for a file with blocks of this size.
    pub(super) fn new(block_size: usize) -> Self {
        Self { waiting: VecDeque::new(), distance: (block_size / SMALLEST_ELEMENT) as u64 + 1 }
    }

    /// Adds a deletion. `visited` is the number of keys that the walk has visited.
    pub(super) fn push(&mut self, visited: u64, deletion: T) {
        self.waiting.push_back((visited, deletion));
    }

    /// Removes and returns the oldest deletion that is safe after so many visited keys; without a walk, the oldest one.
    pub(super) fn pop(&mut self, visited: Option<u64>) -> Option<T> {
        let is_behind = |at: u64| visited.is_none_or(|visited| visited >= at + self.distance);
        self.waiting.front().filter(|(at, _)| is_behind(*at))?;
        self.waiting.pop_front().map(|(_, deletion)| deletion)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Parses a key that is a digest in lower-case hexadecimal.
pub(super) fn lower_case_digest(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key).filter(|digest| digest.to_hex() == key)
}
