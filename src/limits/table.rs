//! What each prefix has used of its limits, in a table of fixed size.
//!
//! Each limit is a bucket as in the generic cell rate algorithm: of a prefix only the moment is kept at
//! which its bucket is full again. One more moves that moment by the interval of the rate, and is
//! refused when it would lie further ahead than the burst allows.

use std::hash::{BuildHasher, RandomState};

/// How many prefixes share a set. Of these, the one that was seen longest ago makes room.
const WAYS: usize = 8;
/// What no prefix is.
const EMPTY: u64 = u64::MAX;
/// How long nothing more is reported of a prefix, in nanoseconds.
const QUIET: u64 = 60_000_000_000;

/// Where a prefix is in the table, until another one takes its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketSlot {
    set: u32,
    way: u8,
}

/// Eight prefixes: 384 bytes, of which a prefix that is found needs three cache lines.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct BucketSet {
    keys: [u64; WAYS],
    seen: [u64; WAYS],
    full: [[u64; 3]; WAYS],
    reported: [u64; WAYS],
}

/// The two halves of a product, mixed.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    (product >> 64) as u64 ^ product as u64
}

/// What prefixes have used of their limits. All times are in nanoseconds since some start.
#[derive(Debug)]
pub(super) struct BucketTable {
    sets: Box<[BucketSet]>,
    /// Random per process, so that an attacker cannot choose prefixes that collide.
    seed: (u64, u64),
}

impl BucketTable {
    /// A table for this many prefixes, rounded up to a power of two times eight.
    pub(super) fn new(prefixes: usize) -> Self {
        let set =
            BucketSet { keys: [EMPTY; WAYS], seen: [0; WAYS], full: [[0; 3]; WAYS], reported: [0; WAYS] };
        let random = RandomState::new();
        Self {
            sets: vec![set; prefixes.div_ceil(WAYS).next_power_of_two()].into_boxed_slice(),
            seed: (random.hash_one(0), random.hash_one(1)),
        }
    }

    /// The slot of a prefix. One that is new, or had to make room, has used nothing.
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
                set.reported[oldest] = 0;
                oldest
            }
        };
        set.seen[way] = now;
        BucketSlot { set: index as u32, way: way as u8 }
    }

    fn index(&self, prefix: u64) -> usize {
        // One product with the seed alone would leave neighbouring prefixes together for some seeds.
        let mixed = fold(prefix ^ self.seed.0, 0x9e37_79b9_7f4a_7c15);
        fold(mixed ^ self.seed.1, 0xd6e8_feb8_6659_fd93) as usize & (self.sets.len() - 1)
    }

    /// Takes one from a bucket, if it has one.
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
        // At least one, however small the burst.
        let is_there = next <= now.saturating_add(burst.max(interval));
        if is_there {
            *full = next;
        }
        is_there
    }

    /// Whether nothing was reported of a prefix for a while, which begins now if so.
    pub(super) fn is_report_due(&mut self, slot: BucketSlot, now: u64) -> bool {
        let reported = &mut self.sets[slot.set as usize].reported[usize::from(slot.way)];
        let is_report_due = *reported == 0 || now.saturating_sub(*reported) >= QUIET;
        if is_report_due {
            *reported = now.max(1);
        }
        is_report_due
    }

    /// How many bytes it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many of the attempts at these times are admitted, by the table and by a bucket that is
    /// filled as the time goes, in units of a nanosecond's worth.
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
    fn a_bucket_agrees_with_a_model_that_fills_it_as_time_goes() {
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
                    // Pauses in between let it fill.
                    now += (state >> 33) % (2 * step) + if state >> 58 == 0 { 2 * SECOND } else { 0 };
                    now
                })
                .collect();
            compare(rate, burst, &times);
        }
    }

    #[test]
    fn the_ends_of_time_do_no_harm() {
        let mut table = BucketTable::new(8);
        let slot = table.find(1, u64::MAX);
        for _ in 0..3 {
            table.take(slot, 0, u64::MAX, SECOND, u64::MAX);
        }
        // A clock that goes back finds the bucket used up, not an overflow.
        assert!(!table.take(slot, 0, 0, SECOND, SECOND));
        assert!(table.take(slot, 1, 0, SECOND, SECOND));
    }

    #[test]
    fn limits_and_prefixes_have_buckets_of_their_own() {
        let mut table = BucketTable::new(64);
        let (one, other) = (table.find(1, 0), table.find(2, 0));
        assert!(table.take(one, 0, 0, SECOND, 0) && !table.take(one, 0, 0, SECOND, 0));
        assert!(table.take(one, 1, 0, SECOND, 0) && table.take(one, 2, 0, SECOND, 0));
        assert!(table.take(other, 0, 0, SECOND, 0));
        assert_eq!(table.find(1, 1), one);
    }

    #[test]
    fn a_million_prefixes_take_no_memory_and_do_not_push_out_a_busy_one() {
        let mut table = BucketTable::new(65_536);
        let bytes = table.bytes();
        assert_eq!(bytes, 65_536 * 48);
        let busy = u64::MAX - 7;
        let mut admitted = 0;
        for spoofed in 0..1_000_000_u64 {
            let now = spoofed * 5_000;
            table.find(spoofed << 8, now);
            if spoofed % 100 == 0 {
                // 2,000 a second, where 100 are allowed.
                let slot = table.find(busy, now);
                admitted += u32::from(table.take(slot, 0, now, SECOND / 100, SECOND));
            }
        }
        // Five seconds, and a second's worth at once; it would be all 10,000 if it were forgotten.
        assert!((500..=700).contains(&admitted), "{admitted}");
        assert_eq!(table.bytes(), bytes);
    }

    #[test]
    fn neighbouring_prefixes_fill_the_table_whatever_its_seed() {
        let neighbours = 8192_u64;
        let mut table = BucketTable::new(neighbours as usize);
        for high in 0..64 {
            for low in 0..16 {
                // Seeds with few bits are the ones that a weak mixture shows with.
                table.seed = (high << 58 | low, high << low);
                table.sets.fill(BucketSet { keys: [EMPTY; WAYS], ..table.sets[0].clone() });
                for number in 0..neighbours {
                    table.find(0xff00 << 48 | 0x0a00_0000 | number << 8, number);
                }
                let held = table.sets.iter().flat_map(|set| set.keys).filter(|key| *key != EMPTY).count();
                // Chance leaves a seventh of them without room.
                assert!(held > 6000, "{held} with the seed {:?}", table.seed);
            }
        }
    }

    #[test]
    fn prefix_seen_longest_ago_makes_room() {
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
    fn nothing_is_reported_twice_within_a_minute() {
        let mut table = BucketTable::new(8);
        let slot = table.find(1, 0);
        let reported = [0, 1, QUIET - 1, QUIET + 1, QUIET + 2].map(|now| table.is_report_due(slot, now));
        assert_eq!(reported, [true, false, false, true, false]);
    }
}
