//! Token buckets of source prefixes, in a table of fixed size.
//!
//! Uses the generic cell rate algorithm: a bucket is stored as the time at which it is full again. Taking a token moves
//! that time forward by the interval of the rate, and fails if it would be further ahead than the burst allows.

use std::hash::{BuildHasher, RandomState};

/// Prefixes per set. A new prefix replaces the least recently seen one of its set.
const WAYS: usize = 8;
/// The key of an empty slot; no prefix has it.
const EMPTY: u64 = u64::MAX;
/// The shortest time between two reports on one limit of one prefix, in seconds.
const QUIET: u16 = 60;

/// The position of a prefix in the table, valid until another prefix replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketSlot {
    set: u32,
    way: u8,
}

/// A set of eight prefixes in 384 bytes. Finding one touches three cache lines.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct BucketSet {
    keys: [u64; WAYS],
    /// The times of the last datagrams.
    seen: [u64; WAYS],
    /// The times at which the three buckets are full again.
    full: [[u64; 3]; WAYS],
    /// The times of the last reports on the three limits, in seconds, which begin anew after 18 hours; 0: never. A time
    /// of an earlier round delays a report by at most a minute.
    reported: [[u16; 3]; WAYS],
}

/// Multiplies, and folds both halves of the product into one.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    (product >> 64) as u64 ^ product as u64
}

/// The token buckets of all prefixes. Times are in nanoseconds since an arbitrary start.
#[derive(Debug)]
pub(super) struct BucketTable {
    sets: Box<[BucketSet]>,
    /// Random per process, so that an attacker cannot choose prefixes that collide.
    seed: (u64, u64),
}

impl BucketTable {
    /// Returns a table for this many prefixes, rounded up to eight times a power of two.
    pub(super) fn new(prefixes: usize) -> Self {
        let set = BucketSet {
            keys: [EMPTY; WAYS],
            seen: [0; WAYS],
            full: [[0; 3]; WAYS],
            reported: [[0; 3]; WAYS],
        };
        let random = RandomState::new();
        Self {
            sets: vec![set; prefixes.div_ceil(WAYS).next_power_of_two()].into_boxed_slice(),
            seed: (random.hash_one(0), random.hash_one(1)),
        }
    }

    /// Returns the slot of a prefix. A new or replaced prefix starts with full buckets.
    pub(super) fn find(&mut self, prefix: u64, now: u64) -> BucketSlot {
        let index = self.index(prefix);
        let set = &mut self.sets[index];
        let way = match set.keys.iter().position(|key| *key == prefix) {
            Some(way) => way,
            None => {
                let oldest =
                    (0..WAYS).min_by_key(|way| (set.keys[*way] != EMPTY, set.seen[*way])).unwrap_or(0);
                set.keys[oldest] = prefix;
                set.full[oldest] = [0; 3];
                set.reported[oldest] = [0; 3];
                oldest
            }
        };
        set.seen[way] = now;
        BucketSlot { set: index as u32, way: way as u8 }
    }

    fn index(&self, prefix: u64) -> usize {
        // A single product with the seed would put adjacent prefixes into the same sets for some seeds.
        let mixed = fold(prefix ^ self.seed.0, 0x9e37_79b9_7f4a_7c15);
        fold(mixed ^ self.seed.1, 0xd6e8_feb8_6659_fd93) as usize & (self.sets.len() - 1)
    }

    /// Takes a token from a bucket, and returns whether there was one.
    pub(super) fn take(
        &mut self,
        slot: BucketSlot,
        limit: usize,
        now: u64,
        interval: u64,
        burst: u64,
    ) -> bool {
        let full = &mut self.sets[slot.set as usize].full[usize::from(slot.way)][limit];
        let next = (*full).max(now).saturating_add(interval);
        // A bucket holds at least one token, even if the burst is shorter than the interval.
        let has_token = next <= now.saturating_add(burst.max(interval));
        if has_token {
            *full = next;
        }
        has_token
    }

    /// Whether this limit of the prefix was not reported recently. If so, records a report now.
    pub(super) fn is_report_due(&mut self, slot: BucketSlot, limit: usize, now: u64) -> bool {
        let reported = &mut self.sets[slot.set as usize].reported[usize::from(slot.way)][limit];
        let now = ((now / 1_000_000_000) as u16).max(1);
        let is_report_due = *reported == 0 || now.wrapping_sub(*reported) >= QUIET;
        if is_report_due {
            *reported = now;
        }
        is_report_due
    }

    /// The size of the table in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Compares the table with a model bucket that is filled continuously, in units of nanoseconds.
    fn compare(rate: u64, burst: u64, times: &[u64]) {
        let interval = SECOND / rate;
        let mut table = BucketTable::new(8);
        let slot = table.find(1, 0);
        let capacity = (burst * SECOND).max(interval);
        let (mut level, mut last) = (capacity, 0);
        for now in times {
            level = capacity.min(level + (now - last));
            last = *now;
            let expected = level >= interval;
            if expected {
                level -= interval;
            }
            assert_eq!(table.take(slot, 0, *now, interval, burst * SECOND), expected, "at {now}");
        }
    }

    #[test]
    fn bucket_agrees_with_a_model_that_is_filled_continuously() {
        let mut state = 7_u64;
        for (rate, burst, step) in [
            (1, 1, SECOND / 2),
            (10, 3, SECOND / 30),
            (1000, 1, 300_000),
            (100_000, 5, 4000),
            (3, 0, SECOND / 4),
        ] {
            let mut now = 0;
            let times: Vec<u64> = (0..5000)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Occasional pauses let the bucket fill.
                    now += (state >> 33) % (2 * step) + if state >> 58 == 0 { 2 * SECOND } else { 0 };
                    now
                })
                .collect();
            compare(rate, burst, &times);
        }
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let mut table = BucketTable::new(8);
        let slot = table.find(1, u64::MAX);
        for _ in 0..3 {
            table.take(slot, 0, u64::MAX, SECOND, u64::MAX);
        }
        // After the clock is set back, the bucket is empty; nothing overflows.
        assert!(!table.take(slot, 0, 0, SECOND, SECOND));
        assert!(table.take(slot, 1, 0, SECOND, SECOND));
    }

    #[test]
    fn each_limit_and_prefix_has_its_own_bucket() {
        let mut table = BucketTable::new(64);
        let (one, other) = (table.find(1, 0), table.find(2, 0));
        assert!(table.take(one, 0, 0, SECOND, 0) && !table.take(one, 0, 0, SECOND, 0));
        assert!(table.take(one, 1, 0, SECOND, 0) && table.take(one, 2, 0, SECOND, 0));
        assert!(table.take(other, 0, 0, SECOND, 0));
        assert_eq!(table.find(1, 1), one);
    }

    #[test]
    fn million_prefixes_take_no_memory_and_do_not_replace_a_busy_one() {
        let mut table = BucketTable::new(65_536);
        let bytes = table.bytes();
        assert_eq!(bytes, 65_536 * 48);
        let busy = u64::MAX - 7;
        let mut admitted = 0;
        for spoofed in 0..1_000_000_u64 {
            let now = spoofed * 5_000;
            table.find(spoofed << 8, now);
            if spoofed % 100 == 0 {
                // 2,000 per second, where 100 are allowed.
                let slot = table.find(busy, now);
                admitted += u32::from(table.take(slot, 0, now, SECOND / 100, SECOND));
            }
        }
        // Five seconds and a burst of one second. All 10,000 would be admitted if the prefix were replaced.
        assert!((500..=700).contains(&admitted), "{admitted}");
        assert_eq!(table.bytes(), bytes);
    }

    #[test]
    fn adjacent_prefixes_fill_the_table_with_any_seed() {
        let number_of_prefixes = 8192_u64;
        let mut table = BucketTable::new(number_of_prefixes as usize);
        for high in 0..64 {
            for low in 0..16 {
                // Seeds with few bits reveal a weak hash function.
                table.seed = (high << 58 | low, high << low);
                table.sets.fill(BucketSet { keys: [EMPTY; WAYS], ..table.sets[0].clone() });
                for number in 0..number_of_prefixes {
                    table.find(0xff00 << 48 | 0x0a00_0000 | number << 8, number);
                }
                let held = table.sets.iter().flat_map(|set| set.keys).filter(|key| *key != EMPTY).count();
                // A random distribution leaves a seventh of them without a slot.
                assert!(held > 6000, "{held} with the seed {:?}", table.seed);
            }
        }
    }

    #[test]
    fn least_recently_seen_prefix_is_replaced() {
        let mut table = BucketTable::new(8);
        for prefix in 0..8 {
            table.find(prefix, prefix);
        }
        table.find(0, 8);
        table.find(100, 9);
        let keys = &table.sets[0].keys;
        assert!(keys.contains(&0) && keys.contains(&100) && !keys.contains(&1), "{keys:?}");
    }

    #[test]
    fn each_limit_of_a_prefix_is_reported_once_per_minute() {
        let mut table = BucketTable::new(8);
        let slot = table.find(1, 0);
        for limit in 0..3 {
            let mut due = |second: u64| table.is_report_due(slot, limit, second * SECOND);
            assert_eq!([0, 1, 59, 61, 62].map(&mut due), [true, false, false, true, false], "{limit}");
            // The stored seconds begin anew: every second of a later round is at most a minute late.
            for round in [1, 2, 1000] {
                let reported = (0..121).filter(|second| due(round * 65_536 + second)).count();
                assert!((2..=3).contains(&reported), "{reported} in the round {round}");
            }
        }
    }
}
