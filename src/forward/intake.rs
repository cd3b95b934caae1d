//! Takes digests from the server loop, and distributes requests over the queues of all servers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyzor_wire::forward_id::ForwardOrigin;
use tokio::sync::Notify;

use super::batcher::Batcher;
use super::channel::Channel;
use super::{ForwardBuffer, ForwardUnit};
use crate::record::TallyKind;

/// What the server loop and the thread of forwarding share.
pub(super) struct Intake {
    state: Mutex<IntakeState>,
    /// Wakes the timer of partial requests.
    timer: Notify,
}

struct IntakeState {
    batcher: Batcher,
    channels: Vec<Arc<Channel>>,
    /// Whether the timer is waiting for a time: it looks then when the next request is due.
    is_timer_set: bool,
    delay: Duration,
    /// Requests that are being distributed. Empty, but keeps its capacity.
    units: Vec<ForwardUnit>,
}

impl Intake {
    pub(super) fn new(origin: ForwardOrigin, delay: Duration) -> Self {
        let batcher = Batcher::new(origin, delay);
        let state =
            IntakeState { batcher, channels: Vec::new(), is_timer_set: false, delay, units: Vec::new() };
        Self { state: Mutex::new(state), timer: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, IntakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes everything out of the buffer.
    pub(super) fn take(&self, buffer: &mut ForwardBuffer, now: Instant) {
        let state = &mut *self.lock();
        state.units.append(&mut buffer.units);
        state.batcher.add(TallyKind::Report, &buffer.reports, now, &mut state.units);
        state.batcher.add(TallyKind::Whitelist, &buffer.whitelists, now, &mut state.units);
        buffer.reports.clear();
        buffer.whitelists.clear();
        if state.delay.is_zero() {
            state.batcher.take_all(&mut state.units);
        } else if !state.is_timer_set && state.batcher.due().is_some() {
            state.is_timer_set = true;
            self.timer.notify_one();
        }
        state.distribute(now);
    }

    /// Distributes partial requests when they have waited long enough. Never returns.
    pub(super) async fn run_timer(&self) {
        loop {
            match self.next_due() {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => self.timer.notified().await,
            }
        }
    }

    /// Distributes partial requests that have waited long enough. Returns the time at which others will have.
    fn next_due(&self) -> Option<Instant> {
        let state = &mut *self.lock();
        let now = Instant::now();
        state.batcher.take_due(now, &mut state.units);
        state.distribute(now);
        let due = state.batcher.due();
        state.is_timer_set = due.is_some();
        due
    }

    /// Distributes all partial requests, then replaces the servers by what `replace` makes of them.
    pub(super) fn replace<T>(&self, replace: impl FnOnce(&mut Vec<Arc<Channel>>) -> T) -> T {
        let state = &mut *self.lock();
        state.batcher.take_all(&mut state.units);
        state.distribute(Instant::now());
        replace(&mut state.channels)
    }

    /// Whether a request with this number has been distributed.
    pub(super) fn has_sent(&self, number: u64) -> bool {
        self.lock().batcher.has_made(number)
    }

    /// The number of digests that wait for a request to be filled.
    pub(super) fn pending(&self) -> u64 {
        self.lock().batcher.pending()
    }

    /// Returns the servers.
    pub(super) fn channels(&self) -> Vec<Arc<Channel>> {
        self.lock().channels.clone()
    }
}

impl IntakeState {
    /// Adds the requests to the queue of each server.
    fn distribute(&mut self, now: Instant) {
        if self.units.is_empty() {
            return;
        }
        let units: Vec<Arc<ForwardUnit>> = self.units.drain(..).map(Arc::new).collect();
        for channel in &self.channels {
            let mut queue = channel.queue();
            let mut must_wake = false;
            for unit in &units {
                must_wake |= queue.push(unit, now);
            }
            drop(queue);
            if must_wake {
                channel.wake.notify_one();
            }
        }
    }
}
