//! Handing work to the engine, and giving up what waits too long for it.

use std::time::{Duration, Instant};

use tracing::error;

use super::Server;
use super::work::EngineWork;
use crate::storage::{Batch, BatchProgress};

/// How many requests one batch for the engine may have.
pub(super) const MAX_BATCH: usize = 1024;
/// How many digests these may name, beyond what is received at once.
const MAX_BATCH_DIGESTS: usize = 8192;
/// How many requests may wait for the engine, and how many digests these may name.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_DIGESTS: usize = 65_536;
/// How long a request may wait for the engine, which then takes its time, too. A client gives up after a few
/// seconds, and an old answer keeps others waiting.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(50);

impl Server {
    /// Hands waiting work to the engine, as far as it takes any.
    pub(super) fn dispatch(&mut self) {
        self.next = None;
        while self.under_way.len() < self.max_under_way && !self.waiting.is_empty() && self.is_time() {
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
            match self.engine.run(batch) {
                BatchProgress::Done(batch) => self.complete(batch, works),
                BatchProgress::Later(batch) => {
                    self.under_way.spawn(async move { (batch.await, works) });
                    self.begun = Instant::now();
                }
            }
        }
    }

    /// Whether the engine is to be given another batch by now; if not, it is later.
    fn is_time(&mut self) -> bool {
        let at = self.begun + self.engine.spacing();
        let is_early = !self.under_way.is_empty() && Instant::now() < at;
        self.next = is_early.then_some(at);
        !is_early
    }

    /// Gives up what has waited too long for the engine, and what is too much. While the engine says
    /// nothing at all it may have gone, and what waits is refused as soon as that is known.
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
            self.counters.shed += oldest.len() as u64;
            if let Some(replays) = &mut self.admission.replays {
                let copies: usize = oldest.marks().map(|mark| replays.give_up(mark).len()).sum();
                self.counters.shed += copies as u64;
            }
            self.spare_works.extend(self.waiting.pop_front());
        }
        self.spare_works.truncate(self.max_under_way);
    }

    /// Takes a batch back from the engine, replies to its requests, and goes on with what waits.
    pub(super) fn take_back(&mut self, done: Result<(Batch, Vec<EngineWork>), tokio::task::JoinError>) {
        match done {
            Ok((batch, works)) => self.complete(batch, works),
            Err(error) => {
                error!("a batch for the database was lost: {error}");
                if let Some(replays) = &mut self.admission.replays {
                    replays.give_up_all();
                }
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
