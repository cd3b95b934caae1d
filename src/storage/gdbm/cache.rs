//! Decoded records in front of the file.
//!
//! The file belongs to this process alone, so that what has been read from it stays true until this
//! process changes it. A look-up in the file costs ten times one in here: a copy of a whole bucket,
//! another of the record, and its decoding. Changes are written to the file first and then noted
//! here, so nothing is ever only here.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::codec::StoredRecord;
use pyzor_wire::digest::Digest;

/// How many records one set holds.
const WAYS: usize = 8;
/// How many sets there are, as a power of two: 131,072 records, 14 MB once all are in use.
const SETS_BITS: u32 = 14;

/// A bounded table of records. A digest belongs to one set, where it takes the place of one that was
/// not asked for lately: a flood of digests that are named once does not drive out the others.
#[derive(Debug)]
pub(super) struct RecordCache {
    seed: u64,
    sets: Box<[CacheSet]>,
}

#[derive(Clone, Debug, Default)]
struct CacheSet {
    /// A byte of each record's hash, so that most of the others need not be looked at.
    tags: [u8; WAYS],
    /// How many of the places are in use.
    used: u8,
    /// A bit for each record that was asked for again since it came or since the hand went by.
    recent: u8,
    /// Where to look first for a place to give away.
    hand: u8,
    slots: Option<Box<[CacheSlot; WAYS]>>,
}

#[derive(Clone, Copy, Debug)]
struct CacheSlot {
    digest: Digest,
    stored: Option<StoredRecord>,
}

impl Default for RecordCache {
    fn default() -> Self {
        // Which digests share a set must not be for strangers to choose.
        Self { seed: RandomState::new().hash_one(0), sets: vec![CacheSet::default(); 1 << SETS_BITS].into() }
    }
}

impl RecordCache {
    /// What the file has of a digest, if that is known here: a record, or none.
    pub(super) fn get(&mut self, digest: &Digest) -> Option<Option<StoredRecord>> {
        let (set, tag) = self.find(digest);
        let way = set.position(tag, digest)?;
        set.recent |= 1 << way;
        Some(set.slots.as_ref()?[way].stored)
    }

    /// Notes what the file has of a digest.
    pub(super) fn put(&mut self, digest: &Digest, stored: Option<StoredRecord>) {
        let slot = CacheSlot { digest: *digest, stored };
        let (set, tag) = self.find(digest);
        let way = set.position(tag, digest).unwrap_or_else(|| set.place());
        set.tags[way] = tag;
        set.slots.get_or_insert_with(|| Box::new([slot; WAYS]))[way] = slot;
    }

    /// Forgets a digest, of which the file has something else now, or perhaps has.
    pub(super) fn forget(&mut self, digest: &Digest) {
        let (set, tag) = self.find(digest);
        let Some(way) = set.position(tag, digest) else { return };
        let last = usize::from(set.used) - 1;
        set.tags[way] = set.tags[last];
        if let Some(slots) = &mut set.slots {
            slots[way] = slots[last];
        }
        set.recent &= !(1 << way);
        set.used -= 1;
    }

    /// Has the processor fetch what is known of these digests. One after the other they would be waited
    /// for, and the table is larger than what is near the processor.
    pub(super) fn fetch<'a>(&self, digests: impl Iterator<Item = &'a Digest>) {
        let mut seen = 0;
        for digest in digests {
            let (set, tag) = self.place(digest);
            let set = &self.sets[set];
            let way = set.tags.iter().position(|other| *other == tag).unwrap_or_default();
            seen ^= set.slots.as_ref().map_or(0, |slots| slots[way].digest.prefix());
        }
        std::hint::black_box(seen);
    }

    fn find(&mut self, digest: &Digest) -> (&mut CacheSet, u8) {
        let (set, tag) = self.place(digest);
        (&mut self.sets[set], tag)
    }

    /// The set that a digest belongs to, and its tag there.
    fn place(&self, digest: &Digest) -> (usize, u8) {
        let hash = (digest.prefix() ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> (u64::BITS - SETS_BITS)) as usize, (hash >> (u64::BITS - SETS_BITS - u8::BITS)) as u8)
    }
}

impl CacheSet {
    fn position(&self, tag: u8, digest: &Digest) -> Option<usize> {
        let slots = self.slots.as_ref()?;
        (0..usize::from(self.used)).find(|way| self.tags[*way] == tag && slots[*way].digest == *digest)
    }

    /// A place for another record.
    fn place(&mut self) -> usize {
        if usize::from(self.used) < WAYS {
            self.used += 1;
            return usize::from(self.used) - 1;
        }
        loop {
            let way = usize::from(self.hand) % WAYS;
            self.hand = (self.hand + 1) % WAYS as u8;
            if self.recent & 1 << way == 0 {
                return way;
            }
            self.recent &= !(1 << way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{TallyKind, Timestamp};

    fn digest(number: u64) -> Digest {
        use sha1::Digest as _;
        Digest::from_bytes(sha1::Sha1::digest(number.to_be_bytes()).into())
    }

    fn stored(count: u32) -> StoredRecord {
        let mut stored = StoredRecord::default();
        stored.add(TallyKind::Report, count, Timestamp::from_seconds(1));
        stored
    }

    #[test]
    fn what_was_put_is_had_until_it_is_replaced_or_forgotten() {
        let mut cache = RecordCache::default();
        assert_eq!(cache.get(&digest(1)), None);
        cache.put(&digest(1), None);
        assert_eq!(cache.get(&digest(1)), Some(None));
        cache.put(&digest(1), Some(stored(5)));
        assert_eq!(cache.get(&digest(1)), Some(Some(stored(5))));
        cache.forget(&digest(1));
        cache.forget(&digest(2));
        assert_eq!(cache.get(&digest(1)), None);
    }

    #[test]
    fn it_never_says_anything_else_than_what_was_put_last() {
        let mut cache = RecordCache::default();
        let mut truth = std::collections::HashMap::new();
        let mut state = 1u64;
        for step in 0..400_000u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let digest = digest(state >> 33 & 0x3_ffff);
            match state >> 60 {
                0 => {
                    cache.forget(&digest);
                    truth.remove(&digest);
                }
                1..8 => {
                    cache.put(&digest, Some(stored(step)));
                    truth.insert(digest, step);
                }
                _ => {
                    if let Some(found) = cache.get(&digest) {
                        assert_eq!(
                            Some(found),
                            truth.get(&digest).map(|step| Some(stored(*step))),
                            "{digest}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_asked_for_outlives_a_flood_of_others() {
        let mut cache = RecordCache::default();
        let popular: Vec<Digest> = (0..20_000).map(digest).collect();
        for digest in &popular {
            cache.put(digest, Some(stored(1)));
        }
        for number in 100_000..600_000 {
            if number % 25_000 == 0 {
                for digest in &popular {
                    cache.get(digest);
                }
            }
            cache.put(&digest(number), None);
        }
        let kept = popular.iter().filter(|digest| cache.get(digest).is_some()).count();
        assert!(kept > 19_000, "{kept}");
        let slots: usize = cache.sets.iter().map(|set| usize::from(set.used)).sum();
        assert_eq!(slots, WAYS << SETS_BITS);
    }
}
