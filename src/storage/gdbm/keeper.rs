//! What the engine's own thread does: sync the file, and delete what has expired.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::sweep::Sweep;
use super::{Shared, lock};
use crate::record::Timestamp;

/// How often changes are made safe against a crash of the machine.
const SYNC_PERIOD: Duration = Duration::from_secs(60);
/// How often expired records are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a slice of a sweep holds the file, and how long it then leaves it to requests.
const SLICE: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(1);

impl Shared {
    /// What the engine's thread does until the engine is closed.
    pub(super) fn keep(&self) {
        self.look_for_foreign_keys();
        let mut next_sync = Instant::now() + SYNC_PERIOD;
        let mut next_sweep = self.age.map(|_| Instant::now());
        loop {
            if next_sweep.is_some_and(|next| next <= Instant::now()) {
                if !self.sweep(&mut next_sync) {
                    return;
                }
                next_sweep = Some(Instant::now() + SWEEP_PERIOD);
            }
            let next = next_sweep.map_or(next_sync, |sweep| sweep.min(next_sync));
            if self.stops_before(next) {
                return;
            }
            self.sync_if_due(&mut next_sync);
        }
    }

    /// Waits until then, or until the engine is to be closed, which it tells.
    fn stops_before(&self, then: Instant) -> bool {
        let mut stopping = lock(&self.stopping);
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if *stopping || left.is_zero() {
                return *stopping;
            }
            stopping = self.wake.wait_timeout(stopping, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn sync_if_due(&self, next_sync: &mut Instant) {
        if *next_sync <= Instant::now() {
            self.sync();
            *next_sync = Instant::now() + SYNC_PERIOD;
        }
    }

    /// Makes all changes so far durable; says whether that was possible.
    pub(super) fn sync(&self) -> bool {
        let dirty = self.lock().as_mut().is_some_and(|open| std::mem::take(&mut open.dirty));
        if !dirty || self.sync_file() {
            return true;
        }
        if let Some(open) = self.lock().as_mut() {
            open.dirty = true;
        }
        false
    }

    pub(super) fn sync_file(&self) -> bool {
        match self.file.sync_all() {
            Ok(()) => true,
            Err(error) => {
                error!("the database {} could not be written to its disk: {error}", self.path.display());
                false
            }
        }
    }

    fn look_for_foreign_keys(&self) {
        let mut guard = self.lock();
        let Some(open) = guard.as_mut() else { return };
        match open.has_foreign_keys() {
            Ok(false) => {}
            Ok(true) => warn!(
                "the database {} has keys that are no lower-case digests; they are left alone; pyzor-migrate to \
                 another database repairs, merges or skips them",
                self.path.display()
            ),
            Err(error) => {
                self.complain(open, &error);
            }
        }
    }

    /// Deletes expired records. Says whether the engine goes on afterwards.
    fn sweep(&self, next_sync: &mut Instant) -> bool {
        let Some(age) = self.age else { return true };
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let horizon = Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age));
        let start = Instant::now();
        let mut sweep: Option<Sweep> = None;
        loop {
            if self.stops_before(Instant::now() + PAUSE) {
                return false;
            }
            self.sync_if_due(next_sync);
            let mut guard = self.lock();
            let Some(open) = guard.as_mut() else { return false };
            let slice = match &mut sweep {
                Some(sweep) => sweep.slice(open, SLICE),
                None => open.handle.block_size().map(|size| {
                    sweep = Some(Sweep::new(horizon, size));
                    false
                }),
            };
            match slice {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    warn!("looking for expired records in {} ended early: {error}", self.path.display());
                    self.complain(open, &error);
                    return true;
                }
            }
        }
        if let Some(sweep) = sweep {
            info!(
                "Expired {} of {} records in {:.1} s; requests were held up for {} us at most; {} damaged records \
                 and {} foreign keys were left alone",
                sweep.deleted,
                sweep.walked(),
                start.elapsed().as_secs_f64(),
                sweep.longest.as_micros(),
                sweep.damaged,
                sweep.foreign,
            );
        }
        true
    }
}
