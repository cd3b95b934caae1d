//! Makes requests out of single digests.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};

use super::{DIGESTS_PER_REQUEST, ForwardUnit};
use crate::record::TallyKind;

/// Gathers digests until a request is full or its oldest digest has waited long enough.
///
/// The requests are the same for all servers. A server that gets a report in two ways recognizes it only if both requests
/// have the same id and the same digests.
#[derive(Debug)]
pub(super) struct Batcher {
    origin: ForwardOrigin,
    /// The number of the first request. It is random, because the numbers of an earlier start must not be used again.
    first: u64,
    /// The number of the next request.
    number: u64,
    delay: Duration,
    reports: PartialUnit,
    whitelists: PartialUnit,
}

/// A request that is not full yet.
#[derive(Debug, Default)]
struct PartialUnit {
    digests: Vec<Digest>,
    /// The time of the oldest digest.
    since: Option<Instant>,
}

impl Batcher {
    /// Returns a batcher without digests.
    pub(super) fn new(origin: ForwardOrigin, delay: Duration) -> Self {
        let first = RandomState::new().hash_one(0);
        let (reports, whitelists) = (PartialUnit::default(), PartialUnit::default());
        Self { origin, first, number: first, delay, reports, whitelists }
    }

    /// Adds digests, and moves full requests to `units`.
    pub(super) fn add(
        &mut self,
        kind: TallyKind,
        digests: &[Digest],
        now: Instant,
        units: &mut Vec<ForwardUnit>,
    ) {
        let mut rest = digests;
        while !rest.is_empty() {
            let partial = self.partial(kind);
            let room = DIGESTS_PER_REQUEST - partial.digests.len();
            let (taken, behind) = rest.split_at(room.min(rest.len()));
            partial.digests.extend_from_slice(taken);
            partial.since.get_or_insert(now);
            rest = behind;
            if partial.digests.len() == DIGESTS_PER_REQUEST {
                self.complete(kind, units);
            }
        }
    }

    /// Moves requests to `units` that have waited long enough.
    pub(super) fn take_due(&mut self, now: Instant, units: &mut Vec<ForwardUnit>) {
        for kind in [TallyKind::Report, TallyKind::Whitelist] {
            let delay = self.delay;
            if self.partial(kind).since.is_some_and(|since| now >= since + delay) {
                self.complete(kind, units);
            }
        }
    }

    /// Moves everything to `units`.
    pub(super) fn take_all(&mut self, units: &mut Vec<ForwardUnit>) {
        for kind in [TallyKind::Report, TallyKind::Whitelist] {
            if self.partial(kind).since.is_some() {
                self.complete(kind, units);
            }
        }
    }

    /// Returns the time at which a request will have waited long enough; none if there is no digest.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.reports.since.into_iter().chain(self.whitelists.since).min();
        oldest.map(|since| since + self.delay)
    }

    /// Whether a request has this number.
    pub(super) fn has_made(&self, number: u64) -> bool {
        number.wrapping_sub(self.first) < self.number.wrapping_sub(self.first)
    }

    /// The number of digests that wait.
    pub(super) fn pending(&self) -> u64 {
        (self.reports.digests.len() + self.whitelists.digests.len()) as u64
    }

    fn partial(&mut self, kind: TallyKind) -> &mut PartialUnit {
        match kind {
            TallyKind::Report => &mut self.reports,
            TallyKind::Whitelist => &mut self.whitelists,
        }
    }

    fn complete(&mut self, kind: TallyKind, units: &mut Vec<ForwardUnit>) {
        let id = ForwardId { origin: self.origin, number: self.number, hops: 1 };
        self.number = self.number.wrapping_add(1);
        let partial = self.partial(kind);
        partial.since = None;
        units.push(ForwardUnit { id, kind, digests: std::mem::take(&mut partial.digests) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(range: std::ops::Range<u8>) -> Vec<Digest> {
        range.map(|byte| Digest::from_bytes([byte; 20])).collect()
    }

    #[test]
    fn full_requests_leave_at_once_and_the_rest_waits_for_its_oldest_digest() {
        let start = Instant::now();
        let mut batcher = Batcher::new(ForwardOrigin::from_number(7), Duration::from_secs(1));
        let mut units = Vec::new();
        batcher.add(TallyKind::Report, &digests(0..8), start, &mut units);
        batcher.add(TallyKind::Whitelist, &digests(0..1), start + Duration::from_millis(1), &mut units);
        assert_eq!((units.len(), batcher.due()), (0, Some(start + Duration::from_secs(1))));
        batcher.add(TallyKind::Report, &digests(8..25), start + Duration::from_millis(500), &mut units);
        assert_eq!(
            units.iter().map(|unit| unit.digests.clone()).collect::<Vec<_>>(),
            [digests(0..10), digests(10..20)]
        );
        assert_eq!(batcher.due(), Some(start + Duration::from_millis(1001)));
        units.clear();
        batcher.take_due(start + Duration::from_millis(1001), &mut units);
        assert_eq!((units.len(), units[0].kind), (1, TallyKind::Whitelist));
        batcher.take_due(start + Duration::from_millis(1500), &mut units);
        assert_eq!((units.len(), units[1].digests.len(), batcher.due()), (2, 5, None));
    }

    #[test]
    fn numbers_follow_each_other_and_wrap() {
        let mut batcher = Batcher::new(ForwardOrigin::from_number(7), Duration::ZERO);
        (batcher.first, batcher.number) = (u64::MAX, u64::MAX);
        assert!(![u64::MAX - 1, u64::MAX, 0].into_iter().any(|number| batcher.has_made(number)));
        let mut units = Vec::new();
        let now = Instant::now();
        batcher.add(TallyKind::Report, &digests(0..20), now, &mut units);
        batcher.add(TallyKind::Whitelist, &digests(0..1), now, &mut units);
        batcher.take_all(&mut units);
        batcher.take_all(&mut units);
        let ids: Vec<String> = units.iter().map(|unit| unit.id.to_string()).collect();
        assert_eq!(
            ids,
            ["0000000000000007-18446744073709551615-1", "0000000000000007-0-1", "0000000000000007-1-1"]
        );
        let numbers = [u64::MAX - 1, u64::MAX, 0, 1, 2];
        assert_eq!(numbers.map(|number| batcher.has_made(number)), [false, true, true, true, false]);
    }
}
