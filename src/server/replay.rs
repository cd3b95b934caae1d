//! Replay protection: remembers the signatures of counted requests, so that captured copies are not counted again.
//!
//! A signed request is valid from 300 seconds before its time stamp to 300 seconds after, so a valid copy can arrive up
//! to 600 seconds later. The guard remembers the verified signature, which covers the whole request, once the engine
//! has counted it. A copy of a failed request is a new attempt. A copy of a request in flight gets the same reply when
//! that request finishes.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::access::TIME_TOLERANCE;
use crate::logging::allowance::{Allowance, withheld_note};
use crate::record::Timestamp;
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::number::integer;
use pyzor_wire::request::Request;

/// The longest time during which a copy of a request is valid.
const LIFETIME: Duration = Duration::from_secs(600);
/// The most copies that may wait for requests in flight; further ones are dropped.
const MAX_COPIES: usize = 65_536;

/// Identifies a signed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ReplayMark {
    signature: Digest,
    /// The end of the validity of the signature.
    until: Timestamp,
}

impl ReplayMark {
    /// Returns the mark of a request whose signature has been verified; none for the anonymous user, who does not
    /// sign.
    pub(super) fn of(request: &Request<'_>) -> Option<Self> {
        if request.is_anonymous() {
            return None;
        }
        // Both fields can be parsed, because the signature has been verified.
        let signature = Digest::from_hex(request.signature?)?;
        let signed = Timestamp::from_seconds(integer(request.time?)?).micros();
        Some(Self { signature, until: Timestamp::from_micros(signed.saturating_add(TIME_TOLERANCE)) })
    }
}

/// The state of a request that is about to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplayStatus {
    /// Not seen yet: count it. It is in flight until [`ReplayGuard::finish`] or [`ReplayGuard::give_up`].
    New,
    /// A copy of a counted request.
    Counted,
    /// A copy of a request in flight: it is answered together with that request.
    InFlight,
    /// A copy of a request in flight that is dropped, because too many copies wait already.
    TooMany,
}

/// Remembers the signatures of recently counted requests.
#[derive(Debug)]
pub(super) struct ReplayGuard {
    /// The capacity of a generation.
    size: usize,
    /// The signatures of counted requests are kept in two generations. When the younger one is old or full, it
    /// replaces the older one, whose signatures are dropped together. Removing them one by one would cause rehashes
    /// of a large table, which delay all requests.
    younger: SignatureGeneration,
    older: SignatureGeneration,
    /// The signatures of requests in flight, with the reply addresses of their copies.
    in_flight: HashMap<Digest, Vec<ReplyTo>>,
    /// The number of copies in `in_flight`.
    copies: usize,
    /// The number of copies not counted since the last report.
    stopped: u64,
    complaints: Allowance,
}

#[derive(Debug)]
struct SignatureGeneration {
    signatures: HashSet<Digest>,
    since: Instant,
    /// The latest end of validity of a signature.
    until: Timestamp,
}

impl SignatureGeneration {
    fn new(size: usize) -> Self {
        // Full capacity from the start, because growing would move all signatures.
        let signatures = HashSet::with_capacity(size);
        Self { signatures, since: Instant::now(), until: Timestamp::from_micros(i64::MIN) }
    }

    fn restart(&mut self, moment: Instant) {
        self.signatures.clear();
        self.since = moment;
        self.until = Timestamp::from_micros(i64::MIN);
    }
}

impl ReplayGuard {
    /// Returns a guard that remembers between `size` and twice as many signatures.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            younger: SignatureGeneration::new(size),
            older: SignatureGeneration::new(size),
            in_flight: HashMap::new(),
            copies: 0,
            stopped: 0,
            complaints: Allowance::per_minute(1),
        }
    }

    /// Looks for an earlier copy of a request, and records the request as in flight.
    pub(super) fn check(&mut self, mark: ReplayMark, reply_to: ReplyTo) -> ReplayStatus {
        if self.younger.signatures.contains(&mark.signature)
            || self.older.signatures.contains(&mark.signature)
        {
            self.stopped += 1;
            return ReplayStatus::Counted;
        }
        match self.in_flight.get_mut(&mark.signature) {
            None => {
                self.in_flight.insert(mark.signature, Vec::new());
                ReplayStatus::New
            }
            Some(_) if self.copies >= MAX_COPIES => {
                self.stopped += 1;
                ReplayStatus::TooMany
            }
            Some(waiting) => {
                waiting.push(reply_to);
                self.copies += 1;
                self.stopped += 1;
                ReplayStatus::InFlight
            }
        }
    }

    /// Records the outcome of a request in flight. Returns the reply addresses of its copies, which get the same reply.
    pub(super) fn finish(
        &mut self,
        mark: ReplayMark,
        accepted: bool,
        now: Timestamp,
        moment: Instant,
    ) -> Vec<ReplyTo> {
        if accepted {
            self.remember(mark, now, moment);
        }
        self.give_up(mark)
    }

    /// Forgets a request that was dropped uncounted. Returns the reply addresses of its copies.
    pub(super) fn give_up(&mut self, mark: ReplayMark) -> Vec<ReplyTo> {
        let waiting = self.in_flight.remove(&mark.signature).unwrap_or_default();
        self.copies -= waiting.len();
        waiting
    }

    /// Forgets all requests in flight, because their outcomes were lost.
    pub(super) fn give_up_all(&mut self) {
        self.in_flight.clear();
        self.copies = 0;
    }

    fn remember(&mut self, mark: ReplayMark, now: Timestamp, moment: Instant) {
        let is_full = self.younger.signatures.len() >= self.size;
        let age = |generation: &SignatureGeneration| moment.saturating_duration_since(generation.since);
        // Both clocks must agree, because the system clock may be set: signatures are dropped after LIFETIME on the
        // monotonic clock, and only if they are invalid by the system clock.
        if is_full || (age(&self.younger) >= LIFETIME && self.older.until < now) {
            let is_early = age(&self.younger) < LIFETIME || self.older.until >= now;
            if is_early
                && !self.older.signatures.is_empty()
                && let Some(withheld) = self.complaints.take(moment)
            {
                warn!(
                    "ReplayGuard: more than {} signed requests within ten minutes, so copies of the oldest may be \
                     counted again: raise ReplayGuardSize{}",
                    self.size,
                    withheld_note(withheld)
                );
            }
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.restart(moment);
        }
        self.younger.until = self.younger.until.max(mark.until);
        self.younger.signatures.insert(mark.signature);
    }

    /// Logs the number of copies since the last report, if any.
    pub(super) fn report(&mut self) {
        let stopped = std::mem::take(&mut self.stopped);
        if stopped > 0 {
            info!(
                "ReplayGuard: {stopped} copies of signed requests were not counted again since the last report"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
    const PEER: ReplyTo = ReplyTo {
        peer: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
        source: None,
    };

    fn mark(number: u32) -> ReplayMark {
        let mut signature = [0; 20];
        signature[..4].copy_from_slice(&number.to_be_bytes());
        ReplayMark { signature: Digest::from_bytes(signature), until: later(NOW, 300) }
    }

    fn later(time: Timestamp, seconds: i64) -> Timestamp {
        Timestamp::from_micros(time.micros() + seconds * 1_000_000)
    }

    fn count(guard: &mut ReplayGuard, mark: ReplayMark, now: Timestamp, moment: Instant) {
        assert_eq!(guard.check(mark, PEER), ReplayStatus::New);
        assert_eq!(guard.finish(mark, true, now, moment), []);
    }

    #[test]
    fn only_counted_requests_are_remembered() {
        let mut guard = ReplayGuard::new(10);
        for _ in 0..2 {
            assert_eq!(guard.check(mark(1), PEER), ReplayStatus::New);
            guard.finish(mark(1), false, NOW, Instant::now());
        }
        count(&mut guard, mark(1), NOW, Instant::now());
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::Counted);
        assert_eq!(guard.check(mark(2), PEER), ReplayStatus::New);
    }

    #[test]
    fn copies_of_a_request_in_flight_are_kept_for_its_reply_up_to_a_limit() {
        let mut guard = ReplayGuard::new(10);
        guard.check(mark(1), PEER);
        for _ in 0..MAX_COPIES {
            assert_eq!(guard.check(mark(1), PEER), ReplayStatus::InFlight);
        }
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::TooMany);
        assert_eq!(guard.finish(mark(1), false, NOW, Instant::now()).len(), MAX_COPIES);
        assert_eq!((guard.copies, guard.in_flight.len()), (0, 0));
        guard.check(mark(1), PEER);
        guard.check(mark(1), PEER);
        guard.give_up_all();
        assert_eq!((guard.copies, guard.check(mark(1), PEER)), (0, ReplayStatus::New));
    }

    #[test]
    fn signature_is_kept_while_valid_although_the_system_clock_is_set() {
        let mut guard = ReplayGuard::new(1000);
        let start = Instant::now();
        count(&mut guard, mark(1), NOW, start);
        // The system clock is set forward by a day and back, while a second passes.
        count(&mut guard, mark(2), later(NOW, 86_400), start + Duration::from_secs(1));
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::Counted);
        // The system clock is set back by an hour, so the signature is valid again later.
        for step in 1..5 {
            count(&mut guard, mark(100 + step), later(NOW, -3600), start + step * LIFETIME);
        }
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::Counted);
    }

    #[test]
    fn expired_signatures_are_forgotten() {
        let mut guard = ReplayGuard::new(1000);
        let start = Instant::now();
        for step in 0..4 {
            let now = later(NOW, 700 * i64::from(step));
            let mark = ReplayMark { until: later(now, 300), ..mark(step) };
            count(&mut guard, mark, now, start + Duration::from_secs(700) * step);
        }
        assert_eq!(guard.younger.signatures.len() + guard.older.signatures.len(), 2);
        assert_eq!(guard.check(mark(0), PEER), ReplayStatus::New);
    }

    #[test]
    fn memory_is_bounded_and_the_latest_signatures_are_remembered() {
        let mut guard = ReplayGuard::new(1000);
        let capacities = (guard.younger.signatures.capacity(), guard.older.signatures.capacity());
        let moment = Instant::now();
        for number in 0..10_000 {
            count(&mut guard, mark(number), NOW, moment);
            for earlier in number.saturating_sub(1000)..number {
                assert!(
                    guard.younger.signatures.contains(&mark(earlier).signature)
                        || guard.older.signatures.contains(&mark(earlier).signature)
                );
            }
        }
        assert_eq!((guard.younger.signatures.capacity(), guard.older.signatures.capacity()), capacities);
        assert!(guard.younger.signatures.len() + guard.older.signatures.len() <= 2000);
    }
}
