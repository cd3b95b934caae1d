//! Remembers the signatures of what has been counted, so that a captured copy is not counted again.
//!
//! A signed request is valid from 300 seconds before the time it names to 300 seconds after, so a
//! copy can come up to 600 seconds later. What is remembered is the verified signature, which covers
//! all of a request, and only once the engine has accepted it: a copy of what failed is a new attempt.
//! A copy that comes while the first is still under way waits for what becomes of that.

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

/// How long a copy can be valid after the first.
const LIFETIME: Duration = Duration::from_secs(600);
/// How many copies may wait for the first at a time; further ones get no reply.
const MAX_COPIES: usize = 65_536;

/// What distinguishes a signed request from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ReplayMark {
    signature: Digest,
    /// The last moment at which it is valid.
    until: Timestamp,
}

impl ReplayMark {
    /// The mark of a request whose signature has been verified; none for the anonymous user, who does
    /// not sign.
    pub(super) fn of(request: &Request<'_>) -> Option<Self> {
        if request.is_anonymous() {
            return None;
        }
        // That these can be read is part of what has been verified.
        let signature = Digest::from_hex(request.signature?)?;
        let signed = Timestamp::from_seconds(integer(request.time?)?).micros();
        Some(Self { signature, until: Timestamp::from_micros(signed.saturating_add(TIME_TOLERANCE)) })
    }
}

/// What is known of a request that is about to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplayStatus {
    /// Nothing: it is to be counted, and counts as under way until it is finished.
    New,
    /// It has been counted.
    Counted,
    /// It is under way; the copy is answered with it.
    UnderWay,
    /// It is under way, and too many copies wait already.
    TooMany,
}

/// The signatures of what has been counted lately.
#[derive(Debug)]
pub(super) struct ReplayGuard {
    /// How many signatures the younger generation may have.
    size: usize,
    /// What has been counted, in two generations: when the younger one is old or full, it becomes the
    /// older one, whose signatures are forgotten together. So nothing is ever removed singly, which
    /// would make a table of this size rehash in between, and delay all requests.
    younger: SignatureGeneration,
    older: SignatureGeneration,
    under_way: HashMap<Digest, Vec<ReplyTo>>,
    copies: usize,
    stopped: u64,
    complaints: Allowance,
}

#[derive(Debug)]
struct SignatureGeneration {
    signatures: HashSet<Digest>,
    since: Instant,
    /// The last moment at which any of them is valid.
    until: Timestamp,
}

impl SignatureGeneration {
    fn new(size: usize) -> Self {
        // Everything at once: growing would mean to move everything.
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
    /// A guard that remembers at least this many signatures, and at most twice as many.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            younger: SignatureGeneration::new(size),
            older: SignatureGeneration::new(size),
            under_way: HashMap::new(),
            copies: 0,
            stopped: 0,
            complaints: Allowance::per_minute(1),
        }
    }

    /// What is known of a request that is about to be counted for this peer.
    pub(super) fn check(&mut self, mark: ReplayMark, reply_to: ReplyTo) -> ReplayStatus {
        if self.younger.signatures.contains(&mark.signature)
            || self.older.signatures.contains(&mark.signature)
        {
            self.stopped += 1;
            return ReplayStatus::Counted;
        }
        match self.under_way.get_mut(&mark.signature) {
            None => {
                self.under_way.insert(mark.signature, Vec::new());
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
                ReplayStatus::UnderWay
            }
        }
    }

    /// Learns what became of a request; returns where copies came from meanwhile, which get the same reply.
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

    /// Learns that a request gets no reply and was not counted; returns where copies came from meanwhile.
    pub(super) fn give_up(&mut self, mark: ReplayMark) -> Vec<ReplyTo> {
        let waiting = self.under_way.remove(&mark.signature).unwrap_or_default();
        self.copies -= waiting.len();
        waiting
    }

    /// Forgets what is under way, when it will never be known what became of it.
    pub(super) fn give_up_all(&mut self) {
        self.under_way.clear();
        self.copies = 0;
    }

    fn remember(&mut self, mark: ReplayMark, now: Timestamp, moment: Instant) {
        let is_full = self.younger.signatures.len() >= self.size;
        let age = |generation: &SignatureGeneration| moment.saturating_duration_since(generation.since);
        // Whichever clock is set back or forth: what is forgotten has been kept for as long as a copy
        // can be valid, and is not valid now.
        if is_full || (age(&self.younger) >= LIFETIME && self.older.until < now) {
            let is_early = age(&self.younger) < LIFETIME || self.older.until >= now;
            if is_early
                && !self.older.signatures.is_empty()
                && let Some(withheld) = self.complaints.take(moment)
            {
                warn!(
                    "ReplayGuard: more than {} signed requests within ten minutes: signatures are forgotten while they \
                     are valid; raise ReplayGuardSize{}",
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

    /// Says how many copies there were since the last time, if any.
    pub(super) fn report(&mut self) {
        let stopped = std::mem::take(&mut self.stopped);
        if stopped > 0 {
            info!(
                "ReplayGuard: {stopped} copies of signed requests were not counted again since the last such line"
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
    fn only_what_was_accepted_is_remembered() {
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
    fn copies_of_what_is_under_way_are_told_the_same_and_bounded() {
        let mut guard = ReplayGuard::new(10);
        guard.check(mark(1), PEER);
        for _ in 0..MAX_COPIES {
            assert_eq!(guard.check(mark(1), PEER), ReplayStatus::UnderWay);
        }
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::TooMany);
        assert_eq!(guard.finish(mark(1), false, NOW, Instant::now()).len(), MAX_COPIES);
        assert_eq!((guard.copies, guard.under_way.len()), (0, 0));
        guard.check(mark(1), PEER);
        guard.check(mark(1), PEER);
        guard.give_up_all();
        assert_eq!((guard.copies, guard.check(mark(1), PEER)), (0, ReplayStatus::New));
    }

    #[test]
    fn a_signature_is_kept_while_it_may_be_valid_whichever_clock_is_set() {
        let mut guard = ReplayGuard::new(1000);
        let start = Instant::now();
        count(&mut guard, mark(1), NOW, start);
        // Ahead by a day and back: little time has passed.
        count(&mut guard, mark(2), later(NOW, 86_400), start + Duration::from_secs(1));
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::Counted);
        // Back by an hour: the signature will be valid once more, long after.
        for step in 1..5 {
            count(&mut guard, mark(100 + step), later(NOW, -3600), start + step * LIFETIME);
        }
        assert_eq!(guard.check(mark(1), PEER), ReplayStatus::Counted);
    }

    #[test]
    fn what_cannot_be_valid_any_more_is_forgotten() {
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
    fn memory_is_bounded_and_the_latest_are_remembered() {
        let mut guard = ReplayGuard::new(1000);
        let room = (guard.younger.signatures.capacity(), guard.older.signatures.capacity());
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
        assert_eq!((guard.younger.signatures.capacity(), guard.older.signatures.capacity()), room);
        assert!(guard.younger.signatures.len() + guard.older.signatures.len() <= 2000);
    }
}
