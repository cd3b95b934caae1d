//! Walking through all keys of a file, and deleting some of them meanwhile.

use std::collections::VecDeque;

use super::file::handle::{GdbmError, Handle};
use pyzor_wire::digest::Digest;

/// The smallest size of a key's element in a bucket of the file format; a bucket of one block holds
/// no more keys than fit by it.
const SMALLEST_ELEMENT: usize = 16;

/// A walk over all keys, in the file's own order.
#[derive(Debug, Default)]
pub(super) struct KeyWalk {
    position: WalkPosition,
    met: u64,
}

/// How far a walk has come.
#[derive(Debug, Default)]
enum WalkPosition {
    #[default]
    Start,
    At(Vec<u8>),
    End,
}

impl KeyWalk {
    /// Goes on behind this key, up to which a former walk has met so many keys.
    pub(super) fn behind(key: Vec<u8>, met: u64) -> Self {
        Self { position: WalkPosition::At(key), met }
    }

    /// The next key; none at the end.
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
                self.met += 1;
                Ok(Some(key))
            }
            _ => Ok(None),
        }
    }

    /// How many keys it has met.
    pub(super) fn met(&self) -> u64 {
        self.met
    }
}

/// What is to be deleted once a walk has left it behind.
///
/// Deleting moves other keys within their bucket, and a walk through that bucket would then miss
/// some. So a key is deleted only when the walk has left its bucket for certain, which is
/// when it has met more keys since than a bucket can hold.
#[derive(Debug)]
pub(super) struct DelayedDeletions<T> {
    /// With how many keys the walk had met when it was asked for.
    waiting: VecDeque<(u64, T)>,
    /// How many keys a walk must have met behind a key to have left its bucket.
    distance: u64,
}

impl<T> DelayedDeletions<T> {
    /// None yet, of a file with blocks of this size.
    pub(super) fn new(block_size: usize) -> Self {
        Self { waiting: VecDeque::new(), distance: (block_size / SMALLEST_ELEMENT) as u64 + 1 }
    }

    /// Adds something that was met when the walk had met so many keys.
    pub(super) fn push(&mut self, met: u64, doomed: T) {
        self.waiting.push_back((met, doomed));
    }

    /// Takes out the oldest one that a walk which has met so many keys has left behind, or the oldest of all without
    /// a walk.
    pub(super) fn pop(&mut self, met: Option<u64>) -> Option<T> {
        let is_behind = |at: u64| met.is_none_or(|met| met >= at + self.distance);
        self.waiting.front().filter(|(at, _)| is_behind(*at))?;
        self.waiting.pop_front().map(|(_, doomed)| doomed)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The digest whose lower-case text a key is.
pub(super) fn lower_case_digest(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key).filter(|digest| digest.to_hex() == key)
}
