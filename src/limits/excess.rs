//! The source prefixes that exceed their limits the most.

use std::net::IpAddr;

/// The number of prefixes that are counted at a time.
const PREFIXES: usize = 32;

/// Counts of the excess by prefix, in a table of fixed size.
///
/// A prefix that is not in a full table takes the place of the one with the lowest count, and continues that count, by
/// which its own may then be too high (the space-saving algorithm). So a prefix with more than 1/32 of all excess is
/// always in the table, however many others there are.
#[derive(Debug, Default)]
pub(super) struct ExcessTable {
    /// The keys of `entries`, apart because they are searched.
    keys: Vec<u64>,
    entries: Vec<ExcessCount>,
}

#[derive(Debug)]
struct ExcessCount {
    /// An address of the prefix.
    address: IpAddr,
    count: u64,
    /// The part of `count` that may be that of other prefixes.
    uncertain: u64,
}

impl ExcessTable {
    /// Counts one datagram from this address of a prefix.
    pub(super) fn add(&mut self, prefix: u64, address: IpAddr) {
        if let Some(at) = self.keys.iter().position(|key| *key == prefix) {
            self.entries[at].count += 1;
            return;
        }
        if self.entries.len() < PREFIXES {
            self.keys.push(prefix);
            self.entries.push(ExcessCount { address, count: 1, uncertain: 0 });
            return;
        }
        if let Some((at, lowest)) = self.entries.iter_mut().enumerate().min_by_key(|(_, entry)| entry.count) {
            self.keys[at] = prefix;
            *lowest = ExcessCount { address, count: lowest.count + 1, uncertain: lowest.count };
        }
    }

    /// Returns an address of each of the first `most` prefixes and the least excess that it certainly has, and empties
    /// the table.
    pub(super) fn take_highest(&mut self, most: usize) -> Vec<(IpAddr, u64)> {
        self.keys.clear();
        let certain = |entry: ExcessCount| (entry.address, entry.count - entry.uncertain);
        let mut counts: Vec<_> = self.entries.drain(..).map(certain).collect();
        counts.sort_unstable_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
        counts.truncate(most);
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u64) -> IpAddr {
        Ipv4Addr::from_bits(number as u32).into()
    }

    fn add(table: &mut ExcessTable, prefix: u64) {
        table.add(prefix, address(prefix));
    }

    #[test]
    fn highest_counts_are_returned_once_in_order() {
        let mut table = ExcessTable::default();
        for (prefix, count) in [(1, 3), (2, 7), (3, 5), (4, 1)] {
            (0..count).for_each(|_| add(&mut table, prefix));
        }
        assert_eq!(table.take_highest(3), [(address(2), 7), (address(3), 5), (address(1), 3)]);
        assert!(table.take_highest(3).is_empty());
        add(&mut table, 4);
        assert_eq!(table.take_highest(3), [(address(4), 1)]);
    }

    #[test]
    fn prefixes_with_much_excess_are_found_among_a_million_others() {
        let mut table = ExcessTable::default();
        for other in 0..1_000_000_u64 {
            add(&mut table, 1000 + other);
            if other % 8 == 0 {
                add(&mut table, 1);
            }
            if other % 16 == 0 {
                add(&mut table, 2);
            }
        }
        assert!(table.entries.len() == PREFIXES && table.keys.capacity() <= 2 * PREFIXES);
        let highest = table.take_highest(2);
        let within = |found: (IpAddr, u64), prefix, count: u64| {
            // Never too high, and too low only by what came before the prefix was in the table for good.
            found.0 == address(prefix) && (count * 9 / 10..=count).contains(&found.1)
        };
        assert!(within(highest[0], 1, 125_000) && within(highest[1], 2, 62_500), "{highest:?}");
    }
}
