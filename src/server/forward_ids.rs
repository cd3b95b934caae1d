//! The ids of forwarded requests that have been counted, so that each counts once, whichever way it comes.
//!
//! Bounded, whatever is sent: the outcomes of the last requests with an id are kept, and the copies that wait for a
//! request in flight are limited in number and size.

use std::collections::HashMap;

use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::MAX_HOPS;
use pyzor_wire::reply::Refusal;

/// The number of requests of accounts, and of anonymous ones, that are remembered at least.
const REMEMBERED: usize = 65_536;
/// The most copies that may wait for requests in flight; further ones are dropped.
const MAX_COPIES: usize = 4096;
/// The most bytes that the threads and users of these copies may have in all.
const MAX_COPY_BYTES: usize = 1 << 20;

/// The number of hops up to which a request is near its origin. Servers that are wired sensibly are.
const NEAR: u8 = MAX_HOPS / 2;
/// The hops of a request that must not be passed on, also not later.
const NEVER_PASSED_ON: u8 = 0;

/// How a copy of a request has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) hops: u8,
    /// Whether an account has sent it.
    pub(super) is_account: bool,
}

/// The state of a request with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdStatus {
    /// Not known: count it.
    New,
    /// A copy of a request that has been counted, at least in part, or may have been: reply with its outcome.
    Counted {
        outcome: Result<(), Refusal>,
        /// Whether the copy is passed on, because too many hops have kept an earlier one from it.
        goes_on: bool,
    },
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

/// What is known of a counted request.
#[derive(Clone, Copy, Debug)]
struct CountedRequest {
    outcome: Result<(), Refusal>,
    /// The hops with which it came when it was passed on. From [`MAX_HOPS`] on it was not.
    hops: u8,
}

impl CountedRequest {
    /// Notes a copy. Returns whether it is passed on.
    ///
    /// Anyone who sees a request can send it with more hops, which must not keep it from its way. Otherwise a request is
    /// passed on only once, because servers that know no ids count each copy.
    fn meet(&mut self, hops: u8) -> bool {
        let goes_on = (hops < MAX_HOPS && self.hops >= MAX_HOPS) || (hops <= NEAR && self.hops > NEAR);
        if goes_on {
            self.hops = hops;
        }
        goes_on
    }
}

/// Counted requests in two generations. When the younger one is full, it replaces the older one, whose keys are dropped
/// together.
#[derive(Debug)]
struct CountedRequests {
    /// The capacity of a generation.
    size: usize,
    younger: HashMap<Digest, CountedRequest>,
    older: HashMap<Digest, CountedRequest>,
}

impl CountedRequests {
    /// Returns a table that remembers between `size` and twice as many requests. Allocates nothing before the first one.
    fn new(size: usize) -> Self {
        Self { size, younger: HashMap::new(), older: HashMap::new() }
    }

    fn find(&mut self, key: &Digest) -> Option<&mut CountedRequest> {
        self.younger.get_mut(key).or_else(|| self.older.get_mut(key))
    }

    fn remember(&mut self, key: Digest, request: CountedRequest) {
        if self.younger.capacity() < self.size {
            // Full capacity at once, because growing would move all keys.
            self.younger.reserve(self.size);
            self.older.reserve(self.size);
        }
        if self.younger.len() >= self.size {
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.clear();
        }
        self.younger.insert(key, request);
    }
}

/// A request that the engine has not completed yet.
#[derive(Debug)]
struct RequestInFlight {
    /// The fewest hops of its copies, and whether an account has sent one of them.
    arrival: Arrival,
    copies: Vec<WaitingCopy>,
}

/// Remembers forwarded requests by the keys of their ids: see [`pyzor_wire::forward_id::ForwardId::key`].
#[derive(Debug)]
pub(super) struct ForwardIds {
    /// The requests of accounts. Anonymous senders cannot displace them.
    accounts: CountedRequests,
    anonymous: CountedRequests,
    in_flight: HashMap<Digest, RequestInFlight>,
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
    /// Returns tables that remember between `size` and twice as many requests each.
    fn new(size: usize) -> Self {
        Self {
            accounts: CountedRequests::new(size),
            anonymous: CountedRequests::new(size),
            in_flight: HashMap::new(),
            copies: 0,
            copy_bytes: 0,
        }
    }

    /// Looks for an earlier copy of a request. Keeps `copy` if that is in flight.
    pub(super) fn check(
        &mut self,
        key: Digest,
        arrival: Arrival,
        copy: impl FnOnce() -> WaitingCopy,
    ) -> IdStatus {
        if let Some(status) = self.check_counted(key, arrival) {
            return status;
        }
        let Some(request) = self.in_flight.get_mut(&key) else { return IdStatus::New };
        request.arrival.hops = request.arrival.hops.min(arrival.hops);
        request.arrival.is_account |= arrival.is_account;
        let copy = copy();
        if self.copies >= MAX_COPIES || self.copy_bytes + copy.bytes() > MAX_COPY_BYTES {
            return IdStatus::TooMany;
        }
        self.copies += 1;
        self.copy_bytes += copy.bytes();
        request.copies.push(copy);
        IdStatus::InFlight
    }

    fn check_counted(&mut self, key: Digest, arrival: Arrival) -> Option<IdStatus> {
        let (by_account, by_anonymous) = (self.accounts.find(&key), self.anonymous.find(&key));
        let is_new_to_accounts = by_account.is_none();
        let known = by_account.or(by_anonymous)?;
        let goes_on = known.meet(arrival.hops);
        let known = *known;
        if is_new_to_accounts && arrival.is_account {
            self.accounts.remember(key, known);
        }
        Some(IdStatus::Counted { outcome: known.outcome, goes_on })
    }

    /// Records a new request as in flight until [`ForwardIds::finish`] or [`ForwardIds::give_up`].
    pub(super) fn begin(&mut self, key: Digest, arrival: Arrival) {
        self.in_flight.entry(key).or_insert(RequestInFlight { arrival, copies: Vec::new() });
    }

    /// Returns the fewest hops of the copies of a request in flight, and whether an account has sent one of them; none if
    /// its outcome counts as lost.
    pub(super) fn best_arrival(&self, key: &Digest) -> Option<Arrival> {
        self.in_flight.get(key).map(|request| request.arrival)
    }

    /// Remembers the outcome of a request, of which at least one digest has been counted or may have been. `may_go_on`
    /// tells whether one has been counted. Returns its copies, which get the same outcome.
    pub(super) fn finish(
        &mut self,
        key: Digest,
        Arrival { hops, is_account }: Arrival,
        outcome: Result<(), Refusal>,
        may_go_on: bool,
    ) -> Vec<WaitingCopy> {
        let hops = if may_go_on { hops } else { NEVER_PASSED_ON };
        let table = if is_account { &mut self.accounts } else { &mut self.anonymous };
        table.remember(key, CountedRequest { outcome, hops });
        self.give_up(key)
    }

    /// Forgets a request of which nothing was counted: a copy is a new attempt. Returns the copies that waited for it.
    pub(super) fn give_up(&mut self, key: Digest) -> Vec<WaitingCopy> {
        let waiting = self.in_flight.remove(&key).map_or_else(Vec::new, |request| request.copies);
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
mod tests;
