//! What the engine's own thread does: sync the file, and delete what has expired.

use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::core::{GdbmCore, Phase};
use super::expiry::{ExpirySweep, SweepError, horizon};
use super::lock;
use super::walk::{KeyWalk, lower_case_digest};

/// How often changes are made safe against a crash of the machine.
const SYNC_PERIOD: Duration = Duration::from_secs(60);
/// How soon that is tried again when it has failed.
const SYNC_RETRY: Duration = Duration::from_secs(1);
/// How often expired records are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a slice of a sweep holds the file, and how long it then leaves it to requests.
const SLICE: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(1);
/// How soon a sweep that had to be given up is begun again.
const SWEEP_RETRY: Duration = Duration::from_secs(10 * 60);
/// How many keys are looked at at the start, to tell whether some are no digests.
const SAMPLE: u32 = 1000;

/// How a sweep ended.
enum SweepEnd {
    Done,
    /// Something was in its way that may pass.
    GivenUp,
    /// The engine is to be closed.
    Stopped,
}

impl GdbmCore {
    /// What the engine's thread does until the engine is closed.
    pub(super) fn keep(&self) {
        self.look_for_foreign_keys();
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
                    SweepEnd::GivenUp => Some(Instant::now() + SWEEP_RETRY),
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

    /// Waits until then, or until records are to expire, where that is awaited, or until the engine is to be closed.
    /// Returns whether it is.
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

    /// Makes all changes so far durable once that is due.
    pub(super) fn sync_if_due(&self, next_sync: &mut Instant) {
        if *next_sync <= Instant::now() {
            let period = if self.sync() { SYNC_PERIOD } else { SYNC_RETRY };
            *next_sync = Instant::now() + period;
        }
    }

    /// Makes all changes so far durable; says whether that was possible.
    fn sync(&self) -> bool {
        let dirty = self.lock().as_mut().is_some_and(|open| std::mem::take(&mut open.dirty));
        if !dirty {
            return true;
        }
        let is_done = self.sync_file();
        self.warn_if_file_is_gone();
        if let Some(open) = self.lock().as_mut() {
            open.dirty |= !is_done;
            // What is accepted while the disk takes nothing may be lost; that is told once.
            if std::mem::replace(&mut open.unsynced, !is_done) && is_done {
                warn!("the database {} has been written to its disk again", self.path.display());
            }
        }
        is_done
    }

    pub(super) fn sync_file(&self) -> bool {
        match self.file.sync_all() {
            Ok(()) => {
                debug!("The database has been written to its disk.");
                true
            }
            Err(error) => {
                // The system may have given up what it could not write.
                self.marker.flag().require_repair();
                let was_told = self.lock().as_ref().is_some_and(|open| open.unsynced);
                if !was_told {
                    error!(
                        "the database {} could not be written to its disk: {error}; reports and whitelistings are \
                         refused until it can be",
                        self.path.display()
                    );
                }
                false
            }
        }
    }

    /// Says once if the file has been removed or replaced under this process.
    pub(super) fn warn_if_file_is_gone(&self) {
        let Ok(open) = self.file.metadata() else { return };
        let is_removed = open.nlink() == 0;
        if self.place.is_there(&self.file) || self.is_gone.swap(true, Ordering::Relaxed) {
            return;
        }
        let path = self.path.display();
        if is_removed {
            error!(
                "the database {path} is not there any more: the server counts on in the file that was removed, and all \
                 of it is lost when it ends"
            );
        } else {
            warn!("the database is not at {path} any more: the server counts on in the file that was moved");
        }
    }

    /// Looks whether some of the first keys are no lower-case digests, a slice at a time: each may
    /// have to be fetched from the disk.
    fn look_for_foreign_keys(&self) {
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
                            "the database {} has keys that are no lower-case digests; they are left alone; \
                             pyzor-migrate to another database repairs, merges or skips them",
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

    /// Deletes expired records.
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
                    warn!("looking for expired records in {} was given up: {error}", self.path.display());
                    if let SweepError::Gdbm(error) = error {
                        self.report_error(open, &error);
                    }
                    return SweepEnd::GivenUp;
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
        SweepEnd::Done
    }
}
