//! The engine's own thread: it syncs the file and deletes expired records.
//!
//! A report is answered before it is synced: from then on it survives the end of this process, but a crash of the
//! machine can lose what was counted since the last sync. While syncs fail, no report is accepted, and the marker
//! requires a repair, because the kernel may have dropped pages that it could not write.

use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::core::{GdbmCore, Phase};
use super::expiry::{ExpirySweep, SweepError, horizon};
use super::lock;
use super::walk::{KeyWalk, lower_case_digest};

/// Time between two syncs: what a crash of the machine can lose at most.
const SYNC_PERIOD: Duration = Duration::from_secs(60);
/// Time after which a failed sync is tried again.
const SYNC_RETRY: Duration = Duration::from_secs(1);
/// Time between two expiry sweeps.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Time for which one slice of a sweep holds the lock.
const SLICE: Duration = Duration::from_micros(200);
/// Time between two slices, for requests.
const PAUSE: Duration = Duration::from_millis(1);
/// Time after which a failed sweep starts again.
const SWEEP_RETRY: Duration = Duration::from_secs(10 * 60);
/// Number of keys that are checked at the start.
const SAMPLE: u32 = 1000;

/// The end of a sweep.
enum SweepEnd {
    Done,
    /// An error that may be temporary.
    Failed,
    /// The engine is being closed.
    Stopped,
}

impl GdbmCore {
    /// Runs the engine's thread until the engine is closed.
    pub(super) fn keep(&self) {
        self.warn_of_foreign_keys();
        let mut next_sync = Instant::now() + SYNC_PERIOD;
        let mut next_sweep = None;
        loop {
            let awaits_expiry = next_sweep.is_none() && self.age.is_some();
            if awaits_expiry && *lock(&self.phase) == Phase::Expiring {
                next_sweep = Some(Instant::now());
            }
            if next_sweep.is_some_and(|next| next <= Instant::now()) {
                next_sweep = match self.sweep(&mut next_sync) {
                    SweepEnd::Done => Some(Instant::now() + SWEEP_PERIOD),
                    SweepEnd::Failed => Some(Instant::now() + SWEEP_RETRY),
                    SweepEnd::Stopped => return,
                };
            }
            let next = next_sweep.map_or(next_sync, |sweep| sweep.min(next_sync));
            if self.stops_before(next, next_sweep.is_none() && self.age.is_some()) {
                return;
            }
            self.sync_if_due(&mut next_sync);
        }
    }

    /// Waits until `then`, or until the engine is being closed, or, with `awaits_expiry`, until records may expire.
    /// Returns whether the engine is being closed.
    fn stops_before(&self, then: Instant, awaits_expiry: bool) -> bool {
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
        let dirty = self.lock().as_mut().is_some_and(|open| std::mem::take(&mut open.dirty));
        if !dirty {
            return true;
        }
        let is_done = self.sync_file();
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

    /// Syncs the file. A failure is logged once per outage and requires a repair. Returns whether it succeeded.
    pub(super) fn sync_file(&self) -> bool {
        match self.file.sync_all() {
            Ok(()) => {
                debug!("The database has been written to its disk.");
                true
            }
            Err(error) => {
                // The kernel may have dropped the pages that it could not write.
                self.marker.flag().require_repair();
                let is_logged = self.lock().as_ref().is_some_and(|open| open.unsynced);
                if !is_logged {
                    error!(
                        "cannot write the database {} to disk: {error}; reports and whitelistings are refused until \
                         that works again",
                        self.path.display()
                    );
                }
                false
            }
        }
    }

    /// Logs, once, that the file was deleted, moved or replaced while it is open.
    pub(super) fn warn_if_file_is_gone(&self) {
        let Ok(open) = self.file.metadata() else { return };
        let is_removed = open.nlink() == 0;
        if self.location.is_there(&self.file) || self.is_gone.swap(true, Ordering::Relaxed) {
            return;
        }
        let path = self.path.display();
        if is_removed {
            error!(
                "the database {path} was deleted: still writing to the deleted file, whose contents are lost when the \
                 server exits"
            );
        } else {
            warn!("the database {path} was moved or replaced: still writing to the original file");
        }
    }

    /// Warns if one of the first keys is not a lower-case digest. Works in slices, because each key may have to be read
    /// from the disk.
    fn warn_of_foreign_keys(&self) {
        let mut walk = KeyWalk::default();
        let mut left = SAMPLE;
        while left > 0 && !self.stops_before(Instant::now() + PAUSE, false) {
            let mut guard = self.lock();
            let Some(open) = guard.as_mut() else { return };
            let start = Instant::now();
            while left > 0 && start.elapsed() < SLICE {
                match walk.next(&mut open.handle) {
                    Ok(Some(key)) if lower_case_digest(key).is_some() => left -= 1,
                    Ok(Some(_)) => {
                        warn!(
                            "the database {} has keys that are not lower-case digests, which are ignored: migrate to \
                             another database with pyzor-migrate to repair, merge or skip them",
                            self.path.display()
                        );
                        return;
                    }
                    Ok(None) => return,
                    Err(error) => {
                        self.report_error(open, &error);
                        return;
                    }
                }
            }
        }
    }

    /// Deletes all expired records, in slices.
    fn sweep(&self, next_sync: &mut Instant) -> SweepEnd {
        let Some(age) = self.age else { return SweepEnd::Done };
        let horizon = horizon(age);
        let start = Instant::now();
        let mut sweep: Option<ExpirySweep> = None;
        loop {
            if self.stops_before(Instant::now() + PAUSE, false) {
                return SweepEnd::Stopped;
            }
            self.sync_if_due(next_sync);
            let mut guard = self.lock();
            let Some(open) = guard.as_mut() else { return SweepEnd::Stopped };
            let slice = match &mut sweep {
                Some(sweep) => sweep.slice(open, &self.path, SLICE),
                None => open.handle.block_size().map_err(SweepError::from).map(|size| {
                    sweep = Some(ExpirySweep::new(horizon, size));
                    false
                }),
            };
            match slice {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    warn!(
                        "cannot finish the expiry of {}: {error}; it is retried in 10 minutes",
                        self.path.display()
                    );
                    if let SweepError::Gdbm(error) = error {
                        self.report_error(open, &error);
                    }
                    return SweepEnd::Failed;
                }
            }
        }
        if let Some(sweep) = sweep {
            let ignored = |number: u64, what: &str| match number {
                0 => String::new(),
                number => format!("; ignored {number} {what}"),
            };
            info!(
                "Expiry: removed {} of {} records in {:.1} s (longest pause {} µs){}{}",
                sweep.deleted,
                sweep.walked(),
                start.elapsed().as_secs_f64(),
                sweep.longest.as_micros(),
                ignored(sweep.damaged, "damaged records"),
                ignored(sweep.foreign, "keys that are not lower-case digests"),
            );
        }
        SweepEnd::Done
    }
}
