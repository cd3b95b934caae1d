//! The requests that wait to be sent to one server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::ForwardUnit;
use crate::stats::LastMinute;

/// A queue with a bound on the number of digests. The newest requests are dropped.
#[derive(Debug)]
pub(super) struct UnitQueue {
    units: VecDeque<Arc<ForwardUnit>>,
    digests: usize,
    limit: usize,
    /// Digests dropped since the start.
    dropped: u64,
    dropped_recently: LastMinute,
    /// Digests dropped because the queue was full, and not reported yet.
    unreported: u64,
    /// Whether the task found the queue empty, and waits for the next request.
    is_awaited: bool,
    /// Whether the task has ended: nothing is taken any more.
    is_closed: bool,
    /// Whether the server is this one, which has counted everything: nothing is taken.
    is_refused: bool,
}

impl UnitQueue {
    /// Returns an empty queue for this many digests.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            units: VecDeque::new(),
            digests: 0,
            limit,
            dropped: 0,
            dropped_recently: LastMinute::default(),
            unreported: 0,
            is_awaited: false,
            is_closed: false,
            is_refused: false,
        }
    }

    /// Adds a request, or drops it if there is no room for all its digests: a part of it would not be recognized as the
    /// same request. An empty queue takes any request. Returns whether the task must be woken.
    pub(super) fn push(&mut self, unit: &Arc<ForwardUnit>, now: Instant) -> bool {
        let digests = unit.digests.len();
        if self.is_refused {
            return false;
        }
        if self.is_closed {
            self.dropped += digests as u64;
            return false;
        }
        if self.digests > 0 && self.digests + digests > self.limit {
            self.dropped += digests as u64;
            self.unreported += digests as u64;
            self.dropped_recently.add(digests as u64, now);
            return false;
        }
        self.digests += digests;
        self.units.push_back(Arc::clone(unit));
        std::mem::take(&mut self.is_awaited)
    }

    /// Whether nothing is taken from now on, because this server itself would get it. What waits is removed.
    pub(super) fn refuse(&mut self, is_refused: bool) {
        self.is_refused = is_refused;
        if is_refused {
            self.units.clear();
            self.digests = 0;
        }
    }

    /// Whether nothing is taken, because this server itself would get it.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether the task has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes the oldest request out. If there is none, the next call of [`UnitQueue::push`] wakes the task.
    pub(super) fn pop(&mut self) -> Option<Arc<ForwardUnit>> {
        let unit = self.units.pop_front();
        match &unit {
            Some(unit) => self.digests -= unit.digests.len(),
            None => self.is_awaited = true,
        }
        unit
    }

    /// Puts a request back that could not be sent. It keeps its place, even if the queue is full.
    pub(super) fn put_back(&mut self, unit: Arc<ForwardUnit>) {
        self.digests += unit.digests.len();
        self.units.push_front(unit);
    }

    /// The digests that wait.
    pub(super) fn digests(&self) -> u64 {
        self.digests as u64
    }

    /// The requests that wait.
    pub(super) fn requests(&self) -> usize {
        self.units.len()
    }

    /// The most digests that wait.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Digests dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Digests dropped in the last minute because the queue was full.
    pub(super) fn dropped_recently(&self, now: Instant) -> u64 {
        self.dropped_recently.sum(now)
    }

    /// Digests that were dropped because the queue was full, and not reported yet.
    pub(super) fn unreported(&mut self) -> &mut u64 {
        &mut self.unreported
    }

    /// Drops everything, now and from now on. Returns the number of digests dropped.
    pub(super) fn close(&mut self) -> u64 {
        self.is_closed = true;
        let dropped = std::mem::take(&mut self.digests) as u64;
        self.units.clear();
        self.dropped += dropped;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::unit;
    use super::*;

    #[test]
    fn newest_requests_are_dropped_and_counted() {
        let now = Instant::now();
        let mut queue = UnitQueue::new(25);
        for number in 0..4 {
            queue.push(&unit(number, 10), now);
        }
        queue.push(&unit(4, 5), now);
        assert_eq!((queue.digests(), queue.dropped(), queue.dropped_recently(now)), (25, 20, 20));
        assert_eq!(std::mem::take(queue.unreported()), 20);
        let numbers: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|unit| unit.id.number).collect();
        assert_eq!((numbers, queue.digests()), (vec![0, 1, 4], 0));
    }

    #[test]
    fn task_is_woken_once_after_it_found_the_queue_empty() {
        let now = Instant::now();
        let mut queue = UnitQueue::new(5);
        assert!(!queue.push(&unit(0, 10), now), "the task has not looked yet");
        assert!(queue.pop().is_some() && queue.pop().is_none());
        assert!(queue.push(&unit(1, 1), now));
        assert!(!queue.push(&unit(2, 1), now));
    }

    #[test]
    fn nothing_is_queued_or_dropped_for_this_server_itself() {
        let now = Instant::now();
        let mut queue = UnitQueue::new(10);
        queue.push(&unit(0, 10), now);
        queue.refuse(true);
        queue.push(&unit(1, 10), now);
        assert_eq!((queue.digests(), queue.dropped(), queue.close()), (0, 0, 0));
    }

    #[test]
    fn returned_requests_keep_their_place_and_closed_queues_drop_all() {
        let now = Instant::now();
        let mut queue = UnitQueue::new(10);
        queue.push(&unit(0, 10), now);
        let first = queue.pop().unwrap();
        queue.push(&unit(1, 10), now);
        queue.put_back(first);
        assert_eq!(queue.pop().unwrap().id.number, 0);
        assert_eq!(queue.close(), 10);
        queue.push(&unit(2, 3), now);
        assert_eq!((queue.digests(), queue.dropped()), (0, 13));
        assert_eq!(*queue.unreported(), 0);
    }
}
