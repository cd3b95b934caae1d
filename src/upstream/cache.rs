//! The answers of other servers that are still fresh.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;

/// An answer with the time at which it is stale.
#[derive(Clone, Copy, Debug)]
struct CachedAnswer {
    counts: RecordCounts,
    stale_at: Instant,
    /// The number of times that the cache had been cleared before.
    generation: u64,
}

type Answers = LruCache<Digest, CachedAnswer, RandomState>;

/// Answers by digest. When it is full, misses make way first, so that a flood of random digests displaces hardly anything
/// that was found. Hashed with random keys, because clients choose the digests.
#[derive(Debug)]
pub(super) struct AnswerCache {
    /// Hits that are kept for `found_age`: the one that was not used for longest is mostly stale first.
    lasting: Answers,
    /// Misses, and hits that are kept for a shorter time.
    passing: Answers,
    capacity: usize,
    found_age: Duration,
    miss_age: Duration,
    /// The number of times that the cache was cleared. Earlier answers are not used, and make way first.
    generation: u64,
    /// The number of answers since then.
    current: usize,
}

impl AnswerCache {
    /// Returns an empty cache for this many digests.
    ///
    /// The tables have their room from the start: a table of a million that grows would stop the server loop for 0.2 s. The
    /// system gives the memory when it is used.
    pub(super) fn new(capacity: usize, found_age: Duration, miss_age: Duration) -> Self {
        let room = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let answers = || LruCache::with_hasher(room, RandomState::new());
        let (lasting, passing) = (answers(), answers());
        Self { lasting, passing, capacity, found_age, miss_age, generation: 0, current: 0 }
    }

    /// The number of answers, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.current
    }

    /// Returns the counts of a digest, if they are fresh.
    pub(super) fn get(&mut self, digest: &Digest, now: Instant) -> Option<RecordCounts> {
        let answers = [&mut self.lasting, &mut self.passing];
        let answer = answers.into_iter().find_map(|answers| answers.get(digest).copied())?;
        if self.is_fresh(&answer, now) {
            return Some(answer.counts);
        }
        self.remove(digest);
        None
    }

    fn is_fresh(&self, answer: &CachedAnswer, now: Instant) -> bool {
        answer.generation == self.generation && now < answer.stale_at
    }

    /// Keeps the counts of a digest instead of earlier ones, for `longest` at the most.
    pub(super) fn put(&mut self, digest: Digest, counts: RecordCounts, longest: Duration, now: Instant) {
        self.remove(&digest);
        if self.capacity == 0 {
            return;
        }
        if self.lasting.len() + self.passing.len() >= self.capacity {
            self.make_room(now);
        }
        let is_miss = counts == RecordCounts::default();
        let age = if is_miss { self.miss_age } else { self.found_age };
        let answers = if is_miss || longest < age { &mut self.passing } else { &mut self.lasting };
        let stale_at = now + age.min(longest);
        answers.put(digest, CachedAnswer { counts, stale_at, generation: self.generation });
        self.current += 1;
    }

    /// Removes one answer: a hit that was not used for longest if it is stale, or else a miss.
    fn make_room(&mut self, now: Instant) {
        let is_stale = self.lasting.peek_lru().is_some_and(|(_, answer)| !self.is_fresh(answer, now));
        let of_lasting = |cache: &mut Self| cache.lasting.pop_lru();
        let removed = match is_stale {
            true => of_lasting(self),
            false => self.passing.pop_lru().or_else(|| of_lasting(self)),
        };
        self.note_removed(removed.map(|(_, answer)| answer));
    }

    fn remove(&mut self, digest: &Digest) {
        let removed = self.lasting.pop(digest).or_else(|| self.passing.pop(digest));
        self.note_removed(removed);
    }

    fn note_removed(&mut self, removed: Option<CachedAnswer>) {
        let is_current = |answer: &CachedAnswer| answer.generation == self.generation;
        self.current -= usize::from(removed.as_ref().is_some_and(is_current));
    }

    /// Makes all answers void. Their memory is kept for others, because freeing a million answers would stop the server
    /// loop for 0.2 s.
    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.current = 0;
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
    fn void_answers_make_way_and_are_not_counted() {
        let (mut cache, start) = (cache(2), Instant::now());
        cache.put(digest(1), HIT, Duration::MAX, start);
        cache.put(digest(2), HIT, Duration::MAX, start);
        cache.clear();
        assert_eq!(cache.len(), 0);
        cache.put(digest(3), MISS, Duration::MAX, start);
        cache.put(digest(4), HIT, Duration::MAX, start);
        assert_eq!((cache.get(&digest(3), start), cache.get(&digest(4), start)), (Some(MISS), Some(HIT)));
        assert_eq!((cache.get(&digest(1), start), cache.get(&digest(2), start)), (None, None));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn hits_that_are_kept_for_a_short_time_make_way_as_misses_do() {
        let (mut cache, start) = (cache(3), Instant::now());
        cache.put(digest(1), HIT, Duration::MAX, start);
        cache.put(digest(2), HIT, seconds(10), start);
        cache.put(digest(3), HIT, seconds(10), start);
        let later = start + seconds(11);
        cache.put(digest(4), MISS, Duration::MAX, later);
        cache.put(digest(5), MISS, Duration::MAX, later);
        assert_eq!((cache.get(&digest(4), later), cache.get(&digest(5), later)), (Some(MISS), Some(MISS)));
        assert_eq!((cache.get(&digest(1), later), cache.len()), (Some(HIT), 3));
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
