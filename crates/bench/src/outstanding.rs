//! The requests that wait for replies: matches replies with requests, and finds those that have timed out.

use super::request::{FIRST_THREAD, THREADS};
use pyzor_wire::op::Op;

/// The index that means "no slot".
const NO_SLOT: u32 = u32::MAX;

/// A request without a reply yet. Times are nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentRequest {
    pub(super) op: Op,
    /// The socket that it is sent on.
    pub(super) socket: usize,
    /// The start of its latency: when it was written, or in an open loop when it was due.
    pub(super) since: u64,
    /// The time when it was sent, at which its timeout starts.
    pub(super) at: u64,
    /// Whether the request belongs to the measurement, not to the warm-up.
    pub(super) is_counted: bool,
}

/// The request that a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyMatch {
    /// A request that was waiting for it.
    Request(SentRequest),
    /// A request that has timed out.
    Late,
    /// No request, or one that was already answered.
    Unknown,
}

/// The requests without a reply, as a linked list in the order in which they were sent.
///
/// Each request has a slot. Its `Thread` encodes the slot and how often the slot has been used (its round), so that no
/// number is used twice and the request is found without a search.
#[derive(Debug)]
pub(super) struct Outstanding {
    slots: Vec<RequestSlot>,
    free: Vec<u32>,
    /// The number of bits of a slot's index.
    bits: u32,
    limit: usize,
    /// Added to all numbers; differs between runs.
    offset: u64,
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct RequestSlot {
    sent: SentRequest,
    /// The number of times that the slot has been used.
    round: u64,
    /// The last round whose request timed out, unless its reply has arrived since.
    lost: Option<u64>,
    is_taken: bool,
    older: u32,
    newer: u32,
}

impl Outstanding {
    /// Creates room for `limit` requests at a time. The offset should differ between runs.
    pub(super) fn new(limit: usize, offset: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            bits: limit.next_power_of_two().trailing_zeros(),
            limit,
            offset: offset % THREADS,
            oldest: NO_SLOT,
            newest: NO_SLOT,
        }
    }

    /// Adds a request. It must not have been sent before earlier ones. Returns its `Thread`, or `None` if there is no
    /// room.
    pub(super) fn add(&mut self, sent: SentRequest) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() == self.limit => return None,
            None => {
                let slot = RequestSlot {
                    sent,
                    round: 0,
                    lost: None,
                    is_taken: false,
                    older: NO_SLOT,
                    newer: NO_SLOT,
                };
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let newest = std::mem::replace(&mut self.newest, index);
        let slot = &mut self.slots[index as usize];
        slot.sent = sent;
        slot.round += 1;
        slot.is_taken = true;
        (slot.older, slot.newer) = (newest, NO_SLOT);
        let number = (slot.round << self.bits | u64::from(index)) % THREADS;
        match self.slots.get_mut(newest as usize) {
            Some(before) => before.newer = index,
            None => self.oldest = index,
        }
        Some(FIRST_THREAD + (number + self.offset) % THREADS)
    }

    /// Finds and removes the request with this `Thread`.
    pub(super) fn answer(&mut self, thread: u64) -> ReplyMatch {
        let Some((index, round)) = self.locate(thread) else { return ReplyMatch::Unknown };
        let slot = &mut self.slots[index as usize];
        if slot.is_taken && slot.round == round {
            return ReplyMatch::Request(self.remove(index));
        }
        match slot.lost {
            Some(lost) if round <= lost => {
                if round == lost {
                    slot.lost = None;
                }
                ReplyMatch::Late
            }
            _ => ReplyMatch::Unknown,
        }
    }

    /// Sets when a request was sent, which must not be before earlier ones. Returns the request.
    pub(super) fn sent(&mut self, thread: u64, at: u64) -> Option<SentRequest> {
        let (index, round) = self.locate(thread)?;
        let slot = self.slots.get_mut(index as usize)?;
        if !slot.is_taken || slot.round != round {
            return None;
        }
        slot.sent.at = at;
        Some(slot.sent)
    }

    /// Removes a request that could not be sent.
    pub(super) fn cancel(&mut self, thread: u64) -> Option<SentRequest> {
        let (index, round) = self.locate(thread)?;
        let slot = &self.slots[index as usize];
        (slot.is_taken && slot.round == round).then(|| self.remove(index))
    }

    /// The time when the oldest request was sent.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.slots.get(self.oldest as usize).map(|slot| slot.sent.at)
    }

    /// Removes the oldest request as lost, if it was sent at `until` or before.
    pub(super) fn give_up(&mut self, until: u64) -> Option<SentRequest> {
        let slot = self.slots.get_mut(self.oldest as usize).filter(|slot| slot.sent.at <= until)?;
        slot.lost = Some(slot.round);
        Some(self.remove(self.oldest))
    }

    fn locate(&self, thread: u64) -> Option<(u32, u64)> {
        let number = thread.checked_sub(FIRST_THREAD).filter(|number| *number < THREADS)?;
        let number = (number + THREADS - self.offset) % THREADS;
        let index = number & ((1 << self.bits) - 1);
        let slot = self.slots.get(usize::try_from(index).ok()?)?;
        let round = number >> self.bits;
        (1..=slot.round).contains(&round).then_some((index as u32, round))
    }

    fn remove(&mut self, index: u32) -> SentRequest {
        let slot = &mut self.slots[index as usize];
        slot.is_taken = false;
        let (sent, older, newer) = (slot.sent, slot.older, slot.newer);
        match self.slots.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(behind) => behind.older = older,
            None => self.newest = older,
        }
        self.free.push(index);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(since: u64) -> SentRequest {
        SentRequest { op: Op::Check, socket: 0, since, at: since, is_counted: true }
    }

    #[test]
    fn reply_is_matched_once() {
        let mut outstanding = Outstanding::new(3, 5);
        let threads: Vec<u64> = (0..3).map(|since| outstanding.add(sent(since)).unwrap()).collect();
        assert_eq!(outstanding.add(sent(3)), None);
        assert_eq!(outstanding.answer(threads[1]), ReplyMatch::Request(sent(1)));
        assert_eq!(outstanding.answer(threads[1]), ReplyMatch::Unknown);
        assert_eq!(outstanding.oldest(), Some(0));
        assert_eq!(outstanding.answer(threads[0]), ReplyMatch::Request(sent(0)));
        assert_eq!(outstanding.answer(threads[2]), ReplyMatch::Request(sent(2)));
        assert_eq!(outstanding.oldest(), None);
        for stranger in [0, FIRST_THREAD, threads[0] + 1000, u64::MAX] {
            assert_eq!(outstanding.answer(stranger), ReplyMatch::Unknown, "{stranger}");
        }
    }

    #[test]
    fn late_reply_does_not_match_a_later_request() {
        let mut outstanding = Outstanding::new(1, 0);
        let first = outstanding.add(sent(10)).unwrap();
        assert_eq!(outstanding.give_up(9), None);
        assert_eq!(outstanding.give_up(10), Some(sent(10)));
        assert_eq!(outstanding.give_up(u64::MAX), None);
        let second = outstanding.add(sent(20)).unwrap();
        assert_eq!(outstanding.answer(first), ReplyMatch::Late);
        assert_eq!(outstanding.answer(first), ReplyMatch::Unknown);
        assert_eq!(outstanding.answer(second), ReplyMatch::Request(sent(20)));
        assert_eq!(outstanding.answer(second), ReplyMatch::Unknown);
    }

    #[test]
    fn timeout_starts_when_the_request_is_sent() {
        let mut outstanding = Outstanding::new(2, 3);
        let thread = outstanding.add(sent(10)).unwrap();
        let expected = SentRequest { at: 500, ..sent(10) };
        assert_eq!(outstanding.sent(thread, 500), Some(expected));
        assert_eq!((outstanding.oldest(), outstanding.give_up(499)), (Some(500), None));
        assert_eq!(outstanding.give_up(500), Some(expected));
        assert_eq!(outstanding.sent(thread, 600), None);
    }

    #[test]
    fn no_thread_is_used_twice_and_all_have_the_same_length() {
        for offset in [0, THREADS - 2, u64::MAX] {
            let mut outstanding = Outstanding::new(2, offset);
            let mut seen = std::collections::BTreeSet::new();
            for since in 0..1000 {
                let thread = outstanding.add(sent(since)).unwrap();
                assert_eq!(thread.to_string().len(), 15);
                assert!(seen.insert(thread));
                assert_eq!(outstanding.answer(thread), ReplyMatch::Request(sent(since)));
            }
        }
    }

    #[test]
    fn requests_time_out_in_the_order_of_sending() {
        let mut outstanding = Outstanding::new(10, 1);
        let threads: Vec<u64> = (0..10).map(|since| outstanding.add(sent(since)).unwrap()).collect();
        for at in [0, 4, 9] {
            assert_eq!(outstanding.cancel(threads[at]), Some(sent(at as u64)));
        }
        let lost: Vec<u64> = std::iter::from_fn(|| outstanding.give_up(7)).map(|sent| sent.since).collect();
        assert_eq!(lost, [1, 2, 3, 5, 6, 7]);
        assert_eq!(outstanding.oldest(), Some(8));
    }
}
