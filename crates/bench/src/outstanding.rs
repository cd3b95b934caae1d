//! The requests that wait for their replies: which one a reply answers, and which have waited too long.

use super::request::{FIRST_THREAD, THREADS};
use pyzor_wire::op::Op;

/// No slot.
const NO_SLOT: u32 = u32::MAX;

/// A request under way. TimeHistogram are nanoseconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentRequest {
    pub(super) op: Op,
    /// The socket that it was sent on.
    pub(super) socket: usize,
    /// From when on its latency counts: when it was written, or in an open loop when it should have been sent.
    pub(super) since: u64,
    /// When it was sent, from which its timeout counts.
    pub(super) at: u64,
    /// Whether it belongs to the measurement.
    pub(super) is_counted: bool,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyMatch {
    /// This request, which does not wait any longer.
    Request(SentRequest),
    /// A request that has been given up.
    Late,
    /// No request, or one that was answered before.
    Unknown,
}

/// Requests under way, in the order in which they were sent.
///
/// Each has a slot, and its `Thread` is made of the slot and of how often that was taken: a number is never
/// used twice, and its request is found without a search.
#[derive(Debug)]
pub(super) struct Outstanding {
    slots: Vec<RequestSlot>,
    free: Vec<u32>,
    /// As a power of two, how many slots there may be.
    bits: u32,
    limit: usize,
    /// What numbers begin with; another one in each run.
    offset: u64,
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct RequestSlot {
    sent: SentRequest,
    /// How often it has been taken.
    round: u64,
    /// The last round whose request was given up, if its reply has not come.
    lost: Option<u64>,
    is_taken: bool,
    older: u32,
    newer: u32,
}

impl Outstanding {
    /// Room for so many requests at a time. The offset should not be that of another run.
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

    /// Adds a request that was sent, or will be, no earlier than those before; returns its `Thread`, or nothing
    /// if there is no room.
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

    /// Notes when a request was sent, no earlier than those before; returns it.
    pub(super) fn sent(&mut self, thread: u64, at: u64) -> Option<SentRequest> {
        let (index, round) = self.locate(thread)?;
        let slot = self.slots.get_mut(index as usize)?;
        if !slot.is_taken || slot.round != round {
            return None;
        }
        slot.sent.at = at;
        Some(slot.sent)
    }

    /// Takes back a request that could not be sent.
    pub(super) fn cancel(&mut self, thread: u64) -> Option<SentRequest> {
        let (index, round) = self.locate(thread)?;
        let slot = &self.slots[index as usize];
        (slot.is_taken && slot.round == round).then(|| self.remove(index))
    }

    /// When the oldest request was sent.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.slots.get(self.oldest as usize).map(|slot| slot.sent.at)
    }

    /// Gives up the oldest request, if it was sent by then.
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
    fn a_reply_is_matched_once() {
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
    fn a_late_reply_is_not_taken_for_that_to_a_later_request() {
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
    fn a_timeout_counts_from_when_a_request_was_sent() {
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
    fn requests_are_given_up_in_the_order_in_which_they_were_sent() {
        let mut outstanding = Outstanding::new(10, 1);
        let threads: Vec<u64> = (0..10).map(|since| outstanding.add(sent(since)).unwrap()).collect();
        for at in [0, 4, 9] {
            assert_eq!(outstanding.cancel(threads[at]), Some(sent(at as u64)));
        }
        let given_up: Vec<u64> =
            std::iter::from_fn(|| outstanding.give_up(7)).map(|sent| sent.since).collect();
        assert_eq!(given_up, [1, 2, 3, 5, 6, 7]);
        assert_eq!(outstanding.oldest(), Some(8));
    }
}
