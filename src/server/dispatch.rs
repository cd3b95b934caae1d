//! Dispatch of work to the engine, and load shedding when the engine is too slow.

use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tracing::error;

use super::work::EngineWork;
use super::{FinishedBatch, Server};
use crate::stats::DropCause;
use crate::storage::BatchProgress;

/// The most requests in one batch for the engine.
pub(super) const MAX_BATCH: usize = 1024;
/// The most digests in one batch for the engine, unless a single received batch has more.
const MAX_BATCH_DIGESTS: usize = 8192;
/// The most requests that may wait for the engine.
const MAX_WAITING: usize = 8192;
/// The most digests in the requests that wait for the engine.
const MAX_WAITING_DIGESTS: usize = 65_536;
/// The longest time a request may wait for the engine. Clients give up after a few seconds, and late answers would
/// delay the requests behind them.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(50);

impl Server {
    /// Gives waiting work to the engine until the engine is busy.
    pub(super) fn dispatch(&mut self) {
        self.dispatch_at = None;
        while self.in_flight.len() < self.max_in_flight && !self.waiting.is_empty() && self.is_time() {
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            let oldest = self.waiting.front().map_or_else(Instant::now, EngineWork::waiting_since);
            batch.restart((self.clock)(), oldest);
            let mut works = Vec::new();
            let (mut requests, mut digests) = (0, 0);
            while let Some(next) = self.waiting.front()
                && (requests == 0
                    || (requests + next.len() <= MAX_BATCH && digests + next.digests() <= MAX_BATCH_DIGESTS))
                && let Some(mut work) = self.waiting.pop_front()
            {
                requests += work.len();
                digests += work.digests();
                work.plan(&mut batch);
                works.push(work);
            }
            self.stats.batches.add(requests as u64, 1);
            let start = Instant::now();
            match self.engine.run(batch) {
                BatchProgress::Done(batch) => {
                    self.note_engine_time(start);
                    self.complete(batch, works);
                }
                BatchProgress::Later(batch) => {
                    self.in_flight.spawn(async move { (batch.await, works, start) });
                    self.begun = start;
                }
            }
        }
    }

    /// Records the duration of a batch that has just ended.
    fn note_engine_time(&self, start: Instant) {
        self.stats.engine_time.add(start.elapsed().as_micros() as u64, 1);
    }

    /// Whether the engine may start another batch now. If not, schedules the next dispatch.
    fn is_time(&mut self) -> bool {
        let at = self.begun + self.engine.spacing();
        let is_early = !self.in_flight.is_empty() && Instant::now() < at;
        self.dispatch_at = is_early.then_some(at);
        !is_early
    }

    /// Drops requests that have waited too long for the engine or exceed the queue. While the engine does not answer
    /// at all, it may be unavailable: then old requests are kept, to be refused once that is certain.
    pub(super) fn shed(&mut self) {
        let now = Instant::now();
        let patience = MAX_WAIT + self.engine.spacing();
        let is_silent = now.saturating_duration_since(self.answered) >= patience;
        let mut requests: usize = self.waiting.iter().map(EngineWork::len).sum();
        let mut digests: usize = self.waiting.iter().map(EngineWork::digests).sum();
        while let Some(oldest) = self.waiting.front() {
            let is_old = !is_silent && now.saturating_duration_since(oldest.waiting_since()) >= patience;
            if requests <= MAX_WAITING && digests <= MAX_WAITING_DIGESTS && !is_old {
                break;
            }
            requests -= oldest.len();
            digests -= oldest.digests();
            self.stats.drops.add(DropCause::Shed, oldest.len() as u64);
            let copies: usize = oldest.marks().map(|marks| self.admission.give_up(marks)).sum();
            self.stats.drops.add(DropCause::Shed, copies as u64);
            self.spare_works.extend(self.waiting.pop_front());
        }
        self.spare_works.truncate(self.max_in_flight);
    }

    /// Replies to the requests of a batch that the engine has completed, and dispatches waiting work.
    pub(super) fn take_back(&mut self, done: Result<FinishedBatch, JoinError>) {
        match done {
            Ok((batch, works, start)) => {
                self.note_engine_time(start);
                self.complete(batch, works);
            }
            Err(error) => {
                self.stats.engine_panics.add(1);
                error!("a database batch panicked: {error}; its replies are dropped");
                self.admission.give_up_all();
            }
        }
        // Requests to an unavailable engine are refused at once.
        if self.engine.is_available() {
            self.shed();
            self.answered = Instant::now();
        }
        self.dispatch();
        self.send();
    }
}
