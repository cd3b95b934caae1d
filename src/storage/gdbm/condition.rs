//! The condition of an open database, for operators.
//!
//! The engine and its thread write it, and [`Engine::status`](crate::storage::Engine::status) reads it. Its lock is held
//! for a few instructions only, never during work on the file, so that a status never waits for the disk. A batch takes
//! it only when something changes: with the first change after a sync, and when changes are refused or accepted again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::lock;
use crate::storage::{Availability, EngineStatus, ExpiryStatus, ExpiryTimes, one_line};
use pyzor_wire::digest::Digest;

/// The value of `records` before all are counted.
const UNKNOWN: u64 = u64::MAX;

/// The condition of one open database.
#[derive(Debug)]
pub(crate) struct Condition {
    records: AtomicU64,
    /// Whether a damaged record was found since the last expiry.
    is_damaged: AtomicBool,
    state: Mutex<ConditionState>,
}

#[derive(Debug, Default)]
struct ConditionState {
    /// The refusal of changes for lack of room or because the file system refuses them.
    unreserved: Option<ChangeRefusal>,
    /// The refusal of changes while syncs fail.
    unsynced: Option<ChangeRefusal>,
    /// The last time when changes were accepted again.
    accepted: Option<Instant>,
    /// The first change after the start of the last sync.
    changed: Option<Instant>,
    /// The first change that a sync which is under way or has failed must make durable.
    syncing: Option<Instant>,
    bytes: Option<u64>,
    expiry: ExpiryTimes,
    /// The problem that the file is no longer at its path.
    gone: Option<String>,
    /// The problem that there are keys which are not digests.
    foreign: Option<String>,
    /// The problem that there are damaged records.
    damaged: Option<String>,
}

/// A period in which changes are refused.
#[derive(Debug)]
struct ChangeRefusal {
    since: Instant,
    why: String,
}

impl Default for Condition {
    fn default() -> Self {
        Self { records: AtomicU64::new(UNKNOWN), is_damaged: AtomicBool::new(false), state: Mutex::default() }
    }
}

impl Condition {
    /// Records the number of records, or that it is unknown. The caller holds the lock of the open file.
    pub(crate) fn counted(&self, records: Option<u64>) {
        self.records.store(records.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Records the first change after the start of a sync.
    pub(crate) fn changed(&self) {
        self.state().changed.get_or_insert_with(Instant::now);
    }

    /// Records the start of a sync, which makes all changes so far durable if it succeeds.
    pub(crate) fn sync_begins(&self) {
        let mut state = self.state();
        state.syncing = state.syncing.or(state.changed);
        state.changed = None;
    }

    /// Records the end of a sync: the reason if it failed. Changes are refused from then on until one succeeds.
    pub(crate) fn sync_ended(&self, failure: Option<String>) {
        let mut state = self.state();
        match failure {
            Some(why) => refuse(&mut state.unsynced, why),
            None => {
                state.syncing = None;
                if state.unsynced.take().is_some() {
                    state.accepted = Some(Instant::now());
                }
            }
        }
    }

    /// Records that changes are refused because no blocks can be reserved for them.
    pub(crate) fn unreserved(&self, why: String) {
        refuse(&mut self.state().unreserved, why);
    }

    /// Records that blocks can be reserved again.
    pub(crate) fn reserved(&self) {
        let mut state = self.state();
        if state.unreserved.take().is_some() {
            state.accepted = Some(Instant::now());
        }
    }

    /// Returns whether changes were refused for lack of reserved blocks, when that was last tried.
    pub(crate) fn is_unreserved(&self) -> bool {
        self.state().unreserved.is_some()
    }

    /// Records the size of the used part of the file.
    pub(crate) fn measured(&self, bytes: u64) {
        self.state().bytes = Some(bytes);
    }

    /// Records whether the file is still at its path: the problem if it is not.
    pub(crate) fn located(&self, problem: Option<String>) {
        self.state().gone = problem;
    }

    /// Records that there are keys which are not digests.
    pub(crate) fn has_foreign_keys(&self, problem: String) {
        self.state().foreign = Some(problem);
    }

    /// Records a damaged record that a request has found.
    pub(crate) fn has_damaged_record(&self, digest: &Digest) {
        if !self.is_damaged.swap(true, Ordering::Relaxed) {
            let problem = format!("the record of {digest} is damaged: requests for it fail");
            self.state().damaged.get_or_insert(problem);
        }
    }

    /// Records the time of the next expiry.
    pub(crate) fn expiry_planned(&self, next: Instant) {
        self.state().expiry.plan(next);
    }

    /// Records the end of an expiry, and the time of the next one.
    pub(crate) fn expiry_ended(&self, result: ExpiryStatus, next: Instant) {
        self.state().expiry.ended(result, next);
    }

    /// Records how many damaged records and foreign keys a walk through the whole file has found.
    pub(crate) fn walked(&self, damaged: u64, foreign: u64) {
        let mut state = self.state();
        self.is_damaged.store(false, Ordering::Relaxed);
        let problem = |number: u64, text: &str| (number > 0).then(|| format!("{number} {text}"));
        state.damaged = problem(damaged, "damaged records: requests for them fail");
        state.foreign = problem(
            foreign,
            "keys that are not lower-case digests are ignored: migrate to another database with pyzor-migrate to \
             repair, merge or skip them",
        );
    }

    /// Returns the status at a time.
    pub(crate) fn status(&self, now: Instant) -> EngineStatus {
        let state = self.state();
        let records = self.records.load(Ordering::Relaxed);
        let age = |since: Instant| now.saturating_duration_since(since).as_secs();
        let problems = [&state.gone, &state.damaged, &state.foreign];
        let mut status = EngineStatus {
            since_seconds: state.accepted.map(age),
            records: (records != UNKNOWN).then_some(records),
            bytes: state.bytes,
            synced_seconds_ago: Some(state.syncing.or(state.changed).map_or(0, age)),
            problems: problems.into_iter().flatten().map(|problem| one_line(problem)).collect(),
            ..EngineStatus::default()
        };
        if let Some(refusal) = state.unsynced.as_ref().or(state.unreserved.as_ref()) {
            status.availability = Availability::ReadOnly;
            let both = [&state.unsynced, &state.unreserved];
            status.since_seconds = both.into_iter().flatten().map(|refusal| age(refusal.since)).max();
            status.reason = Some(one_line(&refusal.why));
        }
        state.expiry.describe(&mut status, now);
        status
    }

    fn state(&self) -> MutexGuard<'_, ConditionState> {
        lock(&self.state)
    }
}

/// Begins a period in which changes are refused, or replaces the reason of the current one.
fn refuse(refusal: &mut Option<ChangeRefusal>, why: String) {
    match refusal {
        Some(refusal) => refusal.why = why,
        None => *refusal = Some(ChangeRefusal { since: Instant::now(), why }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn synced(condition: &Condition, later: u64) -> Option<u64> {
        condition.status(Instant::now() + Duration::from_secs(later)).synced_seconds_ago
    }

    #[test]
    fn sync_time_grows_only_while_something_is_unsynced() {
        let condition = Condition::default();
        assert_eq!(synced(&condition, 3600), Some(0));
        condition.changed();
        assert!(synced(&condition, 100) >= Some(100));
        condition.sync_begins();
        // A sync that hangs.
        assert!(synced(&condition, 100) >= Some(100));
        condition.sync_ended(None);
        assert_eq!(synced(&condition, 3600), Some(0));
        condition.sync_begins();
        condition.changed();
        condition.sync_ended(None);
        // A change made during a sync is not durable yet.
        assert!(synced(&condition, 100) >= Some(100));
    }

    #[test]
    fn failed_sync_refuses_changes_until_one_succeeds() {
        let condition = Condition::default();
        condition.changed();
        for reason in ["broken", "still broken"] {
            condition.sync_begins();
            condition.sync_ended(Some(reason.to_owned()));
            let status = condition.status(Instant::now() + Duration::from_secs(7));
            assert_eq!(status.availability, Availability::ReadOnly);
            assert_eq!(status.reason.as_deref(), Some(reason));
            assert!(status.since_seconds >= Some(7) && status.synced_seconds_ago >= Some(7), "{status:?}");
        }
        condition.sync_begins();
        condition.sync_ended(None);
        let status = condition.status(Instant::now());
        assert_eq!((status.availability, status.reason), (Availability::Available, None));
        assert!(status.since_seconds.is_some());
        assert_eq!(status.synced_seconds_ago, Some(0));
    }

    #[test]
    fn full_disk_and_failed_sync_are_two_reasons() {
        let condition = Condition::default();
        condition.unreserved("full".to_owned());
        condition.sync_ended(Some("broken".to_owned()));
        assert_eq!(condition.status(Instant::now()).reason.as_deref(), Some("broken"));
        condition.sync_ended(None);
        let status = condition.status(Instant::now());
        assert_eq!((status.availability, status.reason.as_deref()), (Availability::ReadOnly, Some("full")));
        condition.reserved();
        assert_eq!(condition.status(Instant::now()).availability, Availability::Available);
    }

    #[test]
    fn problems_found_by_a_walk_replace_earlier_ones() {
        let condition = Condition::default();
        condition.has_damaged_record(&Digest::from_bytes([1; 20]));
        condition.has_damaged_record(&Digest::from_bytes([2; 20]));
        condition.has_foreign_keys("some".to_owned());
        condition.located(Some("it was deleted".to_owned()));
        let problems = condition.status(Instant::now()).problems;
        assert_eq!(problems.len(), 3);
        assert!(problems[1].contains(&"01".repeat(20)), "{problems:?}");
        condition.walked(0, 2);
        condition.located(None);
        let problems = condition.status(Instant::now()).problems;
        assert!(
            matches!(problems.as_slice(), [one] if one.starts_with("2 keys that are not")),
            "{problems:?}"
        );
    }
}
