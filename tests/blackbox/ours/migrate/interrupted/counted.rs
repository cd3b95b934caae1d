//! The expected content of a database: everything that was counted, and when.

use std::collections::BTreeMap;

/// A count, and the first and last time in seconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: i64,
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
}

/// The content of a database: reports and whitelistings by digest.
pub(crate) type Content = BTreeMap<String, [Tally; 2]>;

/// A time known to be between these two, in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn has(self, moment: i64) -> bool {
        (self.from..=self.to).contains(&moment)
    }
}

/// An expected tally.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    count: i64,
    first: Option<Span>,
    last: Option<Span>,
}

impl Expected {
    fn add(&mut self, count: i64, first: Option<Span>, last: Option<Span>) {
        let earliest = |a: Span, b: Span| Span { from: a.from.min(b.from), to: a.to.min(b.to) };
        let latest = |a: Span, b: Span| Span { from: a.from.max(b.from), to: a.to.max(b.to) };
        self.count += count;
        self.first = [self.first, first].into_iter().flatten().reduce(earliest);
        self.last = [self.last, last].into_iter().flatten().reduce(latest);
    }

    fn add_all(&mut self, other: &Self) {
        self.add(other.count, other.first, other.last);
    }

    fn times_are_those_of(&self, tally: &Tally) -> bool {
        let agree = |expected: Option<Span>, found: Option<i64>| match (expected, found) {
            (None, None) => true,
            (Some(span), Some(moment)) => span.has(moment),
            _ => false,
        };
        agree(self.first, tally.first) && agree(self.last, tally.last)
    }
}

/// Everything that was stored at the start or acknowledged by a server since then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(BTreeMap<String, [Expected; 2]>);

impl Counted {
    /// Adds stored records.
    pub(crate) fn store(&mut self, content: &Content) {
        for (digest, tallies) in content {
            let span = |moment: i64| Span { from: moment, to: moment };
            for (expected, tally) in self.0.entry(digest.clone()).or_default().iter_mut().zip(tallies) {
                expected.add(tally.count, tally.first.map(span), tally.last.map(span));
            }
        }
    }

    /// Adds a report or a whitelisting that was requested and acknowledged at these times.
    pub(crate) fn acknowledge(&mut self, digest: &str, kind: usize, asked: i64, acknowledged: i64) {
        let span = Some(Span { from: asked, to: acknowledged });
        self.0.entry(digest.to_owned()).or_default()[kind].add(1, span, span);
    }

    /// Adds everything that another client has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (digest, tallies) in &other.0 {
            for (expected, other) in self.0.entry(digest.clone()).or_default().iter_mut().zip(tallies) {
                expected.add_all(other);
            }
        }
    }

    /// Returns the number of reports and whitelistings.
    pub(crate) fn total(&self) -> i64 {
        self.0.values().flatten().map(|expected| expected.count).sum()
    }

    /// Returns the number of digests.
    pub(crate) fn digests(&self) -> usize {
        self.0.len()
    }

    /// Asserts that a database holds exactly this, with the right times.
    #[track_caller]
    pub(crate) fn expect(&self, what: &str, content: &Content) {
        self.each(content, &Content::new(), |digest, _, expected, [found, _]| {
            assert!(
                expected.count == found.count && expected.times_are_those_of(&found),
                "{what}: {digest}: {found:?} instead of {expected:?}"
            );
        });
    }

    /// Asserts that two databases together hold everything, and that neither counts anything twice.
    #[track_caller]
    pub(crate) fn expect_union(&self, source: &Content, destination: &Content) {
        self.each(source, destination, |digest, _, expected, [left, there]| {
            let union = Tally {
                count: 0,
                first: left.first.into_iter().chain(there.first).min(),
                last: left.last.max(there.last),
            };
            assert!(
                left.count.max(there.count) <= expected.count
                    && left.count + there.count >= expected.count
                    && expected.times_are_those_of(&union),
                "{digest}: {left:?} in the source and {there:?} in the destination instead of {expected:?}"
            );
        });
    }

    /// Asserts that a destination holds at least what it had before, and at most the sum.
    #[track_caller]
    pub(crate) fn expect_merging(&self, before: &Self, destination: &Content) {
        self.each(destination, &Content::new(), |digest, kind, expected, [found, _]| {
            let least = before.0.get(digest).map_or(0, |tallies| tallies[kind].count);
            assert!(
                (least..=expected.count).contains(&found.count),
                "{digest}: {found:?} in the destination instead of {least} to {expected:?}"
            );
        });
    }

    /// Compares each tally with the content of two databases.
    #[track_caller]
    fn each(&self, one: &Content, other: &Content, compare: impl Fn(&str, usize, &Expected, [Tally; 2])) {
        let nothing = [Tally::default(); 2];
        for digest in one.keys().chain(other.keys()) {
            assert!(self.0.contains_key(digest), "{digest} was never counted");
        }
        for (digest, expected) in &self.0 {
            let (one, other) = (one.get(digest).unwrap_or(&nothing), other.get(digest).unwrap_or(&nothing));
            for (kind, expected) in expected.iter().enumerate() {
                compare(digest, kind, expected, [one[kind], other[kind]]);
            }
        }
    }
}
