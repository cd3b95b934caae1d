//! The engine's own thread: it syncs the file and deletes expired records.
//!
//! A report is answered before it is synced: from then on it survives the end of this process, but a crash of the
//! machine can lose what was counted since the last sync. While syncs fail, no report is accepted, and the marker
//! requires a repair, because the kernel may have dropped pages that it could not write.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use super::core::{GdbmCore, Phase};
use super::expiry::{ExpirySweep, SweepError, horizon};
use super::lock;
use super::open_file::OpenFile;
use crate::storage::{ExpiryStatus, one_line};

/// Time between two syncs: what a crash of the machine can lose at most.
const SYNC_PERIOD: Duration = Duration::from_secs(60);
/// Time after which a failed sync is tried again.
const SYNC_RETRY: Duration = Duration::from_secs(1);
/// Time between two expiry sweeps.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Time for which one slice of a sweep holds the lock.
pub(super) const SLICE: Duration = Duration::from_micros(200);
/// Time between two slices, for requests.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// Time after which a failed sweep starts again.
const SWEEP_RETRY: Duration = Duration::from_secs(10 * 60);
/// Time between two refreshes of what operators see.
const REFRESH_PERIOD: Duration = Duration::from_secs(10);

impl GdbmCore {
    /// Runs the engine's thread until the engine is closed.
    pub(super) fn keep(&self) {
        self.warn_of_foreign_keys();
        let mut next_sync = Instant::now() + SYNC_PERIOD;
        self.count_records(&mut next_sync);
        let mut next_sweep = None;
        let mut next_refresh = Instant::now() + REFRESH_PERIOD;
        loop {
            let awaits_expiry = next_sweep.is_none() && self.age.is_some();
            if awaits_expiry && *lock(&self.phase) == Phase::Expiring {
                next_sweep = Some(Instant::now());
            }
            if let Some(due) = next_sweep.filter(|next| *next <= Instant::now()) {
                self.condition.expiry_planned(due);
                let Some(next) = self.sweep(&mut next_sync) else { return };
                next_sweep = Some(next);
            }
            let next = next_sync.min(next_refresh);
            let next = next_sweep.map_or(next, |sweep| sweep.min(next));
            if self.stops_before(next, next_sweep.is_none() && self.age.is_some()) {
                return;
            }
            self.sync_if_due(&mut next_sync);
            if next_refresh <= Instant::now() {
                self.refresh();
                next_refresh = Instant::now() + REFRESH_PERIOD;
            }
        }
    }

    /// Waits until `then`, or until the engine is being closed, or, with `awaits_expiry`, until records may expire.
    /// Returns whether the engine is being closed.
    pub(super) fn stops_before(&self, then: Instant, awaits_expiry: bool) -> bool {
        let mut phase = lock(&self.phase);
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if *phase == Phase::Stopping {
                return true;
            }
            if left.is_zero() || awaits_expiry && *phase == Phase::Expiring {
                return false;
            }
            phase = self.wake.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Syncs the file if the time has come, and sets the time of the next sync.
    pub(super) fn sync_if_due(&self, next_sync: &mut Instant) {
        if *next_sync <= Instant::now() {
            let period = if self.sync() { SYNC_PERIOD } else { SYNC_RETRY };
            *next_sync = Instant::now() + period;
        }
    }

    /// Syncs the file if it has changed. Returns whether everything is durable.
    fn sync(&self) -> bool {
        let begins = |open: &mut OpenFile| {
            let is_dirty = std::mem::take(&mut open.dirty);
            if is_dirty {
                self.condition.sync_begins();
            }
            is_dirty
        };
        if !self.lock().as_mut().is_some_and(begins) {
            return true;
        }
        let failure = self.sync_file().err();
        let is_done = failure.is_none();
        self.condition.sync_ended(failure);
        self.warn_if_file_is_gone();
        if let Some(open) = self.lock().as_mut() {
            open.dirty |= !is_done;
            // Reports accepted while writes to disk fail may be lost. Logged once per outage.
            if std::mem::replace(&mut open.unsynced, !is_done) && is_done {
                warn!(
                    "the database {} has been written to disk again; reports and whitelistings are accepted",
                    self.path.display()
                );
            }
        }
        is_done
    }

    /// Syncs the file. A failure is logged once per outage and requires a repair.
    ///
    /// # Errors
    ///
    /// The reason, with the file's name.
    pub(super) fn sync_file(&self) -> Result<(), String> {
        match self.file.sync_all() {
            Ok(()) => {
                debug!("The database has been written to its disk.");
                Ok(())
            }
            Err(error) => {
                // The kernel may have dropped the pages that it could not write.
                self.marker.flag().require_repair();
                let is_logged = self.lock().as_ref().is_some_and(|open| open.unsynced);
                let why = format!("cannot write the database {} to disk: {error}", self.path.display());
                if !is_logged {
                    error!("{why}; reports and whitelistings are refused until that works again");
                }
                Err(why)
            }
        }
    }

    /// Deletes all expired records, in slices. Returns the time of the next sweep; none if the engine is being closed.
    fn sweep(&self, next_sync: &mut Instant) -> Option<Instant> {
        let start = Instant::now();
        let Some(age) = self.age else { return Some(start + SWEEP_PERIOD) };
        let horizon = horizon(age);
        let mut sweep: Option<ExpirySweep> = None;
        let failure = loop {
            if self.stops_before(Instant::now() + PAUSE, false) {
                return None;
            }
            self.sync_if_due(next_sync);
            let mut guard = self.lock();
            let open = guard.as_mut()?;
            let slice = match &mut sweep {
                Some(sweep) => sweep.slice(open, &self.path, SLICE),
                None => open.handle.block_size().map_err(SweepError::from).map(|size| {
                    sweep = Some(ExpirySweep::new(horizon, size));
                    false
                }),
            };
            match slice {
                Ok(false) => {}
                Ok(true) => break None,
                Err(error) => {
                    warn!(
                        "cannot finish the expiry of {}: {error}; it is retried in 10 minutes",
                        self.path.display()
                    );
                    let why = error.to_string();
                    if let SweepError::Gdbm(error) = error {
                        self.report_error(open, &error);
                    }
                    break Some(why);
                }
            }
        };
        if failure.is_none()
            && let Some(sweep) = &sweep
        {
            sweep.log(start.elapsed());
            self.condition.walked(sweep.damaged, sweep.foreign);
        }
        let next = Instant::now() + if failure.is_none() { SWEEP_PERIOD } else { SWEEP_RETRY };
        let (removed, visited) = sweep.map_or((0, 0), |sweep| (sweep.deleted, sweep.walked()));
        let error = failure.map(|why| one_line(&why));
        self.condition
            .expiry_ended(ExpiryStatus { removed, visited, error, ..ExpiryStatus::default() }, next);
        self.refresh();
        Some(next)
    }
}
