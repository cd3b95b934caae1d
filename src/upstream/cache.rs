//! The answers of other servers that are still fresh.

use std::hash::RandomState;
use std::time::{Duration, Instant};

use lru::LruCache;
use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;

/// An answer with the time at which it is stale.
#[derive(Clone, Copy, Debug)]
struct CachedAnswer {
    counts: RecordCounts,
    stale_at: Instant,
}

/// Answers by digest. When it is full, misses make way first, so that checks of random digests cannot displace what was
/// found. Hashed with random keys, because clients choose the digests.
#[derive(Debug)]
pub(super) struct AnswerCache {
    found: LruCache<Digest, CachedAnswer, RandomState>,
    missed: LruCache<Digest, CachedAnswer, RandomState>,
    capacity: usize,
    found_age: Duration,
    miss_age: Duration,
}

impl AnswerCache {
    /// Returns an empty cache for this many digests.
    pub(super) fn new(capacity: usize, found_age: Duration, miss_age: Duration) -> Self {
        Self {
            found: LruCache::unbounded_with_hasher(RandomState::new()),
            missed: LruCache::unbounded_with_hasher(RandomState::new()),
            capacity,
            found_age,
            miss_age,
        }
    }

    /// The number of answers, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.found.len() + self.missed.len()
    }

    /// Returns the counts of a digest, if they are fresh.
    pub(super) fn get(&mut self, digest: &Digest, now: Instant) -> Option<RecordCounts> {
        for answers in [&mut self.found, &mut self.missed] {
            if let Some(answer) = answers.get(digest).copied() {
                if now < answer.stale_at {
                    return Some(answer.counts);
                }
                answers.pop(digest);
            }
        }
        None
    }

    /// Keeps the counts of a digest instead of earlier ones.
    pub(super) fn put(&mut self, digest: Digest, counts: RecordCounts, now: Instant) {
        self.found.pop(&digest);
        self.missed.pop(&digest);
        if self.capacity == 0 {
            return;
        }
        if self.len() >= self.capacity {
            self.make_room(now);
        }
        let (answers, age) = match counts == RecordCounts::default() {
            true => (&mut self.missed, self.miss_age),
            false => (&mut self.found, self.found_age),
        };
        answers.put(digest, CachedAnswer { counts, stale_at: now + age });
    }

    /// Removes one answer: what was not asked for longest, and is stale, or else a miss.
    fn make_room(&mut self, now: Instant) {
        let is_stale = self.found.peek_lru().is_some_and(|(_, answer)| now >= answer.stale_at);
        if is_stale || self.missed.pop_lru().is_none() {
            self.found.pop_lru();
        }
    }

    /// Removes all answers.
    pub(super) fn clear(&mut self) {
        self.found.clear();
        self.missed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISS: RecordCounts = RecordCounts { reports: 0, whitelists: 0 };
    const HIT: RecordCounts = RecordCounts { reports: 0, whitelists: 7 };

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 20])
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn cache(capacity: usize) -> AnswerCache {
        AnswerCache::new(capacity, seconds(60), seconds(5))
    }

    #[test]
    fn misses_are_stale_sooner_than_hits() {
        let (mut cache, start) = (cache(10), Instant::now());
        cache.put(digest(1), HIT, start);
        cache.put(digest(2), MISS, start);
        let fresh = start + seconds(5) - Duration::from_nanos(1);
        assert_eq!((cache.get(&digest(1), fresh), cache.get(&digest(2), fresh)), (Some(HIT), Some(MISS)));
        assert_eq!(cache.get(&digest(2), start + seconds(5)), None);
        assert_eq!(cache.len(), 1, "stale answers are removed");
        assert_eq!(cache.get(&digest(1), start + seconds(59)), Some(HIT));
        assert_eq!(cache.get(&digest(1), start + seconds(60)), None);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn new_answer_replaces_the_old_one_of_either_kind() {
        let (mut cache, start) = (cache(10), Instant::now());
        for counts in [HIT, MISS, HIT] {
            cache.put(digest(1), counts, start);
            assert_eq!((cache.get(&digest(1), start), cache.len()), (Some(counts), 1));
        }
        cache.clear();
        assert_eq!((cache.get(&digest(1), start), cache.len()), (None, 0));
    }

    #[test]
    fn full_cache_drops_misses_first_and_of_hits_the_one_not_used_longest() {
        let (mut cache, start) = (cache(3), Instant::now());
        cache.put(digest(1), HIT, start);
        cache.put(digest(2), HIT, start);
        for miss in 10..20 {
            cache.put(digest(miss), MISS, start);
        }
        assert_eq!((cache.get(&digest(1), start), cache.get(&digest(2), start)), (Some(HIT), Some(HIT)));
        assert_eq!((cache.get(&digest(19), start), cache.get(&digest(18), start)), (Some(MISS), None));
        cache.put(digest(3), HIT, start);
        assert_eq!((cache.get(&digest(19), start), cache.len()), (None, 3));
        cache.get(&digest(1), start);
        cache.put(digest(4), HIT, start);
        assert_eq!((cache.get(&digest(1), start), cache.get(&digest(2), start)), (Some(HIT), None));
    }

    #[test]
    fn stale_hits_make_way_for_misses() {
        let (mut cache, start) = (cache(2), Instant::now());
        cache.put(digest(1), HIT, start);
        cache.put(digest(2), MISS, start + seconds(58));
        cache.put(digest(3), MISS, start + seconds(60));
        let now = start + seconds(60);
        assert_eq!((cache.get(&digest(2), now), cache.get(&digest(3), now)), (Some(MISS), Some(MISS)));
    }

    #[test]
    fn cache_without_room_keeps_nothing() {
        let (mut cache, start) = (cache(0), Instant::now());
        cache.put(digest(1), HIT, start);
        assert_eq!((cache.get(&digest(1), start), cache.len()), (None, 0));
    }
}
