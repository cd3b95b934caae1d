//! The answers of other servers that are still fresh.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::thread;
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

/// Answers by digest. When it is full, misses make way first, so that a flood of random digests displaces hardly anything
/// that was found. Hashed with random keys, because clients choose the digests.
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
    ///
    /// The tables have their room from the start: a table of a million that grows would stop the server loop for 0.2 s. The
    /// system gives the memory when it is used.
    pub(super) fn new(capacity: usize, found_age: Duration, miss_age: Duration) -> Self {
        let room = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let answers = || LruCache::with_hasher(room, RandomState::new());
        Self { found: answers(), missed: answers(), capacity, found_age, miss_age }
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

    /// Keeps the counts of a digest instead of earlier ones, for `longest` at the most.
    pub(super) fn put(&mut self, digest: Digest, counts: RecordCounts, longest: Duration, now: Instant) {
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
        answers.put(digest, CachedAnswer { counts, stale_at: now + age.min(longest) });
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
        let empty = Self::new(self.capacity, self.found_age, self.miss_age);
        let full = std::mem::replace(self, empty);
        // In a thread of its own, because freeing a million answers takes 0.2 s. Without a thread they are freed here.
        let _ = thread::Builder::new().name("clear".to_owned()).spawn(move || drop(full));
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
        cache.put(digest(1), HIT, Duration::MAX, start);
        cache.put(digest(2), MISS, Duration::MAX, start);
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
            cache.put(digest(1), counts, Duration::MAX, start);
            assert_eq!((cache.get(&digest(1), start), cache.len()), (Some(counts), 1));
        }
        cache.clear();
        assert_eq!((cache.get(&digest(1), start), cache.len()), (None, 0));
    }

    #[test]
    fn full_cache_drops_misses_first_and_of_hits_the_one_not_used_longest() {
        let (mut cache, start) = (cache(3), Instant::now());
        cache.put(digest(1), HIT, Duration::MAX, start);
        cache.put(digest(2), HIT, Duration::MAX, start);
        for miss in 10..20 {
            cache.put(digest(miss), MISS, Duration::MAX, start);
        }
        assert_eq!((cache.get(&digest(1), start), cache.get(&digest(2), start)), (Some(HIT), Some(HIT)));
        assert_eq!((cache.get(&digest(19), start), cache.get(&digest(18), start)), (Some(MISS), None));
        cache.put(digest(3), HIT, Duration::MAX, start);
        assert_eq!((cache.get(&digest(19), start), cache.len()), (None, 3));
        cache.get(&digest(1), start);
        cache.put(digest(4), HIT, Duration::MAX, start);
        assert_eq!((cache.get(&digest(1), start), cache.get(&digest(2), start)), (Some(HIT), None));
    }

    #[test]
    fn stale_hits_make_way_for_misses() {
        let (mut cache, start) = (cache(2), Instant::now());
        cache.put(digest(1), HIT, Duration::MAX, start);
        cache.put(digest(2), MISS, Duration::MAX, start + seconds(58));
        cache.put(digest(3), MISS, Duration::MAX, start + seconds(60));
        let now = start + seconds(60);
        assert_eq!((cache.get(&digest(2), now), cache.get(&digest(3), now)), (Some(MISS), Some(MISS)));
    }

    #[test]
    fn cache_without_room_keeps_nothing() {
        let (mut cache, start) = (cache(0), Instant::now());
        cache.put(digest(1), HIT, Duration::MAX, start);
        assert_eq!((cache.get(&digest(1), start), cache.len()), (None, 0));
    }
}
