//! A cache of decoded records.
//!
//! Only this process has the file open, so a cached record is valid until this process changes it. A look-up in the
//! file costs ten times as much: a copy of a whole bucket, a copy of the record, and the decoding. A change is written
//! to the file first and then to the cache, so the cache never holds anything that the file lacks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::codec::StoredRecord;
use pyzor_wire::digest::Digest;

/// Number of records in a set.
const WAYS: usize = 8;
/// Number of sets, as a power of two: 131,072 records, 14 MB when full.
const SETS_BITS: u32 = 14;

/// A bounded, set-associative table of records. Within its set, a new digest replaces one that was not requested
/// recently, so a flood of digests that are requested once does not evict the popular ones.
#[derive(Debug)]
pub(super) struct RecordCache {
    seed: u64,
    sets: Box<[CacheSet]>,
}

#[derive(Clone, Debug, Default)]
struct CacheSet {
    /// One byte of the hash of each record, to skip most comparisons of digests.
    tags: [u8; WAYS],
    /// Number of slots in use.
    used: u8,
    /// A bit for each record that was requested since it was stored or since the hand passed it.
    recent: u8,
    /// The slot at which the search for an eviction begins.
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
        // Random per process, so that an attacker cannot choose digests that share a set.
        Self { seed: RandomState::new().hash_one(0), sets: vec![CacheSet::default(); 1 << SETS_BITS].into() }
    }
}

impl RecordCache {
    /// Returns the cached state of a digest: its record, or that the file has none.
    pub(super) fn get(&mut self, digest: &Digest) -> Option<Option<StoredRecord>> {
        let (set, tag) = self.find(digest);
        let way = set.position(tag, digest)?;
        set.recent |= 1 << way;
        Some(set.slots.as_ref()?[way].stored)
    }

    /// Stores the state of a digest as it is in the file.
    pub(super) fn put(&mut self, digest: &Digest, stored: Option<StoredRecord>) {
        let slot = CacheSlot { digest: *digest, stored };
        let (set, tag) = self.find(digest);
        let way = set.position(tag, digest).unwrap_or_else(|| set.free_slot());
        set.tags[way] = tag;
        set.slots.get_or_insert_with(|| Box::new([slot; WAYS]))[way] = slot;
    }

    /// Removes a digest whose record in the file has changed, or may have.
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

    /// Loads the slots of these digests into the processor's cache. The loads overlap here, while the look-ups that
    /// follow would wait for each of them: the table is larger than the processor's cache.
    pub(super) fn fetch<'a>(&self, digests: impl Iterator<Item = &'a Digest>) {
        let mut seen = 0;
        for digest in digests {
            let (set, tag) = self.locate(digest);
            let set = &self.sets[set];
            let way = set.tags.iter().position(|other| *other == tag).unwrap_or_default();
            seen ^= set.slots.as_ref().map_or(0, |slots| slots[way].digest.prefix());
        }
        std::hint::black_box(seen);
    }

    fn find(&mut self, digest: &Digest) -> (&mut CacheSet, u8) {
        let (set, tag) = self.locate(digest);
        (&mut self.sets[set], tag)
    }

    /// Returns the set of a digest and its tag.
    fn locate(&self, digest: &Digest) -> (usize, u8) {
        let hash = (digest.prefix() ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> (u64::BITS - SETS_BITS)) as usize, (hash >> (u64::BITS - SETS_BITS - u8::BITS)) as u8)
    }
}

impl CacheSet {
    fn position(&self, tag: u8, digest: &Digest) -> Option<usize> {
        let slots = self.slots.as_ref()?;
        (0..usize::from(self.used)).find(|way| self.tags[*way] == tag && slots[*way].digest == *digest)
    }

    /// Returns a free slot, or one to overwrite.
    fn free_slot(&mut self) -> usize {
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
    fn record_stays_until_it_is_replaced_or_forgotten() {
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
    fn cached_record_is_always_the_one_stored_last() {
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
    fn requested_records_survive_a_flood_of_others() {
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
