//! The ids of forwarded requests that have been counted, so that each counts once, whichever way it comes.
//!
//! Bounded, whatever is sent: the outcomes of the last requests with an id are kept, and the copies that wait for a
//! request in flight are limited in number and size.

use std::collections::HashMap;

use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::reply::Refusal;

/// The number of requests that are remembered at least.
const REMEMBERED: usize = 65_536;
/// The most copies that may wait for requests in flight; further ones are dropped.
const MAX_COPIES: usize = 4096;
/// The most bytes that the threads and users of these copies may have in all.
const MAX_COPY_BYTES: usize = 1 << 20;

/// The state of a request with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdStatus {
    /// Not known: count it.
    New,
    /// A copy of a request that has been counted, at least in part: reply with its outcome.
    Counted(Result<(), Refusal>),
    /// A copy of a request in flight: it is answered together with that request.
    InFlight,
    /// A copy of a request in flight that is dropped, because too many copies wait already.
    TooMany,
}

/// A copy of a request in flight. It came on another way, so its reply is not the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WaitingCopy {
    pub(super) reply_to: ReplyTo,
    pub(super) thread: Box<[u8]>,
    pub(super) user: Box<[u8]>,
}

impl WaitingCopy {
    fn bytes(&self) -> usize {
        self.thread.len() + self.user.len()
    }
}

/// Remembers forwarded requests by the keys of their ids: see [`pyzor_wire::forward_id::ForwardId::key`].
#[derive(Debug)]
pub(super) struct ForwardIds {
    /// The capacity of a generation.
    size: usize,
    /// The outcomes of counted requests are kept in two generations. When the younger one is full, it replaces the older
    /// one, whose keys are dropped together.
    younger: HashMap<Digest, Result<(), Refusal>>,
    older: HashMap<Digest, Result<(), Refusal>>,
    /// The requests in flight, with their copies.
    in_flight: HashMap<Digest, Vec<WaitingCopy>>,
    /// The number of copies in `in_flight`.
    copies: usize,
    /// The number of bytes of these copies.
    copy_bytes: usize,
}

impl Default for ForwardIds {
    fn default() -> Self {
        Self::new(REMEMBERED)
    }
}

impl ForwardIds {
    /// Returns a table that remembers between `size` and twice as many requests. Allocates nothing before the first one.
    fn new(size: usize) -> Self {
        Self {
            size,
            younger: HashMap::new(),
            older: HashMap::new(),
            in_flight: HashMap::new(),
            copies: 0,
            copy_bytes: 0,
        }
    }

    /// Looks for an earlier copy of a request. Keeps `copy` if that is in flight.
    pub(super) fn check(&mut self, key: Digest, copy: impl FnOnce() -> WaitingCopy) -> IdStatus {
        if let Some(outcome) = self.younger.get(&key).or_else(|| self.older.get(&key)) {
            return IdStatus::Counted(*outcome);
        }
        let Some(waiting) = self.in_flight.get_mut(&key) else { return IdStatus::New };
        let copy = copy();
        if self.copies >= MAX_COPIES || self.copy_bytes + copy.bytes() > MAX_COPY_BYTES {
            return IdStatus::TooMany;
        }
        self.copies += 1;
        self.copy_bytes += copy.bytes();
        waiting.push(copy);
        IdStatus::InFlight
    }

    /// Records a new request as in flight until [`ForwardIds::finish`] or [`ForwardIds::give_up`].
    pub(super) fn begin(&mut self, key: Digest) {
        self.in_flight.entry(key).or_default();
    }

    /// Remembers the outcome of a request in flight, of which at least one digest has been counted. Returns its copies,
    /// which get the same outcome.
    pub(super) fn finish(&mut self, key: Digest, outcome: Result<(), Refusal>) -> Vec<WaitingCopy> {
        if self.younger.capacity() < self.size {
            // Full capacity at once, because growing would move all keys.
            self.younger.reserve(self.size);
            self.older.reserve(self.size);
        }
        if self.younger.len() >= self.size {
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.clear();
        }
        self.younger.insert(key, outcome);
        self.give_up(key)
    }

    /// Forgets a request of which nothing was counted: a copy is a new attempt. Returns the copies that waited for it.
    pub(super) fn give_up(&mut self, key: Digest) -> Vec<WaitingCopy> {
        let waiting = self.in_flight.remove(&key).unwrap_or_default();
        self.copies -= waiting.len();
        self.copy_bytes -= waiting.iter().map(WaitingCopy::bytes).sum::<usize>();
        waiting
    }

    /// Forgets all requests in flight, because their outcomes were lost. Returns the number of their copies.
    pub(super) fn give_up_all(&mut self) -> usize {
        self.in_flight.clear();
        self.copy_bytes = 0;
        std::mem::take(&mut self.copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ReplyTo = ReplyTo {
        peer: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
        source: None,
    };

    fn key(number: u32) -> Digest {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Digest::from_bytes(bytes)
    }

    fn copy(thread: &[u8]) -> WaitingCopy {
        WaitingCopy { reply_to: PEER, thread: thread.into(), user: b"bob"[..].into() }
    }

    fn check(ids: &mut ForwardIds, number: u32) -> IdStatus {
        ids.check(key(number), || copy(b"1024"))
    }

    #[test]
    fn counted_request_is_remembered_with_its_outcome_and_another_one_is_not() {
        let mut ids = ForwardIds::new(10);
        for number in 0..3 {
            assert_eq!(check(&mut ids, number), IdStatus::New);
            ids.begin(key(number));
        }
        ids.finish(key(0), Ok(()));
        ids.finish(key(1), Err(Refusal::DamagedRecord));
        ids.give_up(key(2));
        assert_eq!(check(&mut ids, 0), IdStatus::Counted(Ok(())));
        assert_eq!(check(&mut ids, 1), IdStatus::Counted(Err(Refusal::DamagedRecord)));
        assert_eq!(check(&mut ids, 2), IdStatus::New);
    }

    #[test]
    fn copies_of_a_request_in_flight_are_returned_once() {
        let mut ids = ForwardIds::new(10);
        ids.begin(key(1));
        assert_eq!(ids.check(key(1), || copy(b"7")), IdStatus::InFlight);
        assert_eq!(check(&mut ids, 2), IdStatus::New);
        assert_eq!(ids.finish(key(1), Ok(())), [copy(b"7")]);
        assert_eq!(ids.give_up(key(1)), []);
        assert_eq!((ids.copies, ids.copy_bytes, ids.in_flight.len()), (0, 0, 0));
    }

    #[test]
    fn copies_are_limited_in_number_and_in_size() {
        let mut ids = ForwardIds::new(10);
        ids.begin(key(1));
        for _ in 0..MAX_COPIES {
            assert_eq!(check(&mut ids, 1), IdStatus::InFlight);
        }
        assert_eq!(check(&mut ids, 1), IdStatus::TooMany);
        assert_eq!(ids.give_up(key(1)).len(), MAX_COPIES);
        ids.begin(key(1));
        let long = vec![b'x'; MAX_COPY_BYTES / 2];
        assert_eq!(ids.check(key(1), || copy(&long)), IdStatus::InFlight);
        assert_eq!(ids.check(key(1), || copy(&long)), IdStatus::TooMany);
        assert_eq!((ids.give_up_all(), ids.copies, ids.copy_bytes), (1, 0, 0));
        assert_eq!(check(&mut ids, 1), IdStatus::New);
    }

    #[test]
    fn memory_is_bounded_and_the_latest_requests_are_remembered() {
        let mut ids = ForwardIds::new(100);
        assert_eq!(ids.younger.capacity() + ids.older.capacity(), 0);
        let mut capacities = None;
        for number in 0..1000 {
            assert_eq!(check(&mut ids, number), IdStatus::New);
            ids.begin(key(number));
            ids.finish(key(number), Ok(()));
            for earlier in number.saturating_sub(99)..=number {
                assert_eq!(check(&mut ids, earlier), IdStatus::Counted(Ok(())));
            }
            let now = (ids.younger.capacity(), ids.older.capacity());
            assert_eq!(*capacities.get_or_insert(now), now);
            assert!(ids.younger.len() <= 100 && ids.older.len() <= 100);
        }
        assert_eq!(check(&mut ids, 1), IdStatus::New);
    }
}
