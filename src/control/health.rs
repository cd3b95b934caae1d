//! The health of a server, judged from its state.

mod upstream;

use super::figures::{counted, grouped, long_period};
use super::reply::{Health, StatusReport};
use crate::forward::{ForwardState, ForwardStatus};
use crate::storage::Availability;

/// The longest time without a successful sync that is not a problem, in seconds: three times the usual period.
const LONGEST_UNSYNCED: u64 = 180;
/// The share of requests and replies whose loss is a problem: one in this many.
const TOLERATED_LOSS: u64 = 1000;
/// The share of forwarded digests without a reply that is a problem: one in this many.
const TOLERATED_SILENCE: u64 = 100;

impl StatusReport {
    /// Fills in the health and the problems, from everything else in this report.
    pub(crate) fn judge(&mut self) {
        self.problems = self.problems_of_storage();
        if self.engine_panics > 0 {
            let panics = grouped(self.engine_panics);
            self.problems.push(format!(
                "{panics} batches panicked in the database engine: report this as a bug, with the lines of the log"
            ));
        }
        let (lost, replies) = (self.lost_last_minute, self.replies_last_minute);
        if lost.saturating_mul(TOLERATED_LOSS) > lost + replies {
            self.problems.push(format!(
                "{} requests or replies were dropped in the last minute for lack of capacity, beside {} replies: see \
                 the drops in pyzorctl stats",
                grouped(lost),
                grouped(replies)
            ));
        }
        self.problems.extend(self.forwarding.iter().flat_map(problems_of_forwarding));
        let asked = self.upstream.iter().flat_map(|upstream| &upstream.servers);
        self.problems.extend(asked.flat_map(upstream::problems));
        self.health = match self.storage.availability {
            Availability::Unavailable => Health::Critical,
            _ if self.problems.is_empty() => Health::Well,
            _ => Health::Degraded,
        };
    }

    fn problems_of_storage(&self) -> Vec<String> {
        let storage = &self.storage;
        let state = match storage.availability {
            Availability::Available => None,
            Availability::ReadOnly => Some("the database accepts no reports and whitelistings"),
            Availability::Partial => Some("some servers of the database are unavailable or refuse changes"),
            Availability::Unavailable => Some("the database is unavailable"),
        };
        let mut problems = Vec::new();
        if let Some(state) = state {
            let since =
                storage.since_seconds.map(|since| format!(" for {}", long_period(since))).unwrap_or_default();
            let reason = storage.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            problems.push(format!("{state}{since}{reason}"));
        }
        if let Some(seconds) = storage.synced_seconds_ago.filter(|seconds| *seconds > LONGEST_UNSYNCED) {
            let seconds = long_period(seconds);
            problems.push(format!("changes made {seconds} ago are not on the disk yet: see the log"));
        }
        if let Some(error) = storage.last_expiry.as_ref().and_then(|expiry| expiry.error.as_ref()) {
            problems.push(format!("the last expiry failed: {error}"));
        }
        problems.extend(storage.problems.iter().cloned());
        problems
    }
}

/// The problems of one server that reports are forwarded to. They end within a minute after their reason.
fn problems_of_forwarding(status: &ForwardStatus) -> Vec<String> {
    let reason = status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut problems = Vec::new();
    let mut add = |problem: String| problems.push(format!("forwarding to {}: {problem}", status.server));
    if status.state == ForwardState::Unavailable {
        let (since, queued) = (long_period(status.since_seconds), counted(status.queued, "digest"));
        add(format!("unavailable for {since}{reason}; {queued} queued"));
    }
    if status.dropped_last_minute > 0 {
        let dropped = counted(status.dropped_last_minute, "digest");
        add(format!("{dropped} dropped in the last minute: the queue is full (ForwardQueue)"));
    }
    if status.refused_last_minute > 0 {
        let refused = counted(status.refused_last_minute, "digest");
        let reason = status.reason.as_deref().filter(|_| status.state != ForwardState::Unavailable);
        let reason = reason.map(|reason| format!(": {}", without_refused(reason))).unwrap_or_default();
        add(format!("{refused} refused in the last minute{reason}"));
    }
    let silent = status.silent_last_minute;
    let answered = status.accepted_last_minute.saturating_add(status.refused_last_minute);
    if silent.saturating_mul(TOLERATED_SILENCE) > answered.saturating_add(silent) {
        let silent = counted(silent, "digest");
        add(format!(
            "{silent} without a reply in the last minute, beside {} with one: they may not have been counted there",
            grouped(answered)
        ));
    }
    problems
}

/// Returns the reason of a refusal without the word that the problem itself has.
fn without_refused(reason: &str) -> &str {
    reason.strip_prefix("refused: ").unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{EngineStatus, ExpiryStatus};

    fn judged(storage: EngineStatus, change: impl FnOnce(&mut StatusReport)) -> StatusReport {
        let mut report = StatusReport { storage, engine: "gdbm".to_owned(), ..StatusReport::default() };
        change(&mut report);
        report.judge();
        report
    }

    #[test]
    fn server_without_problems_is_well() {
        let report =
            judged(EngineStatus { synced_seconds_ago: Some(180), ..EngineStatus::default() }, |report| {
                (report.lost_last_minute, report.replies_last_minute) = (1, 999);
            });
        assert_eq!((report.health, report.problems.len()), (Health::Well, 0), "{:?}", report.problems);
    }

    #[test]
    fn unavailable_database_is_critical_and_everything_else_degraded() {
        let away = EngineStatus {
            availability: Availability::Unavailable,
            since_seconds: Some(61),
            reason: Some("no answer".to_owned()),
            ..EngineStatus::default()
        };
        let report = judged(away, |_| {});
        assert_eq!(report.health, Health::Critical);
        assert_eq!(report.problems, ["the database is unavailable for 1 minute 1 second: no answer"]);
        let failed = ExpiryStatus { error: Some("disk".to_owned()), ..ExpiryStatus::default() };
        for degraded in [
            EngineStatus { availability: Availability::ReadOnly, ..EngineStatus::default() },
            EngineStatus { availability: Availability::Partial, ..EngineStatus::default() },
            EngineStatus { synced_seconds_ago: Some(181), ..EngineStatus::default() },
            EngineStatus { last_expiry: Some(failed), ..EngineStatus::default() },
            EngineStatus { problems: vec!["deleted".to_owned()], ..EngineStatus::default() },
        ] {
            let report = judged(degraded, |_| {});
            assert_eq!(
                (report.health, report.problems.len()),
                (Health::Degraded, 1),
                "{:?}",
                report.problems
            );
        }
        let report = judged(EngineStatus::default(), |report| report.engine_panics = 1);
        assert_eq!((report.health, report.problems.len()), (Health::Degraded, 1));
        let report = judged(EngineStatus::default(), |report| {
            (report.lost_last_minute, report.replies_last_minute) = (2, 999);
        });
        assert_eq!((report.health, report.problems.len()), (Health::Degraded, 1));
    }

    #[test]
    fn servers_that_do_not_take_forwarded_reports_are_problems() {
        let forwarded = |status: ForwardStatus| {
            let status = ForwardStatus { server: "a:24441".to_owned(), ..status };
            judged(EngineStatus::default(), |report| report.forwarding = vec![status])
        };
        for state in [ForwardState::Untried, ForwardState::Available, ForwardState::CatchingUp] {
            let report =
                forwarded(ForwardStatus { state, queued: 9, in_flight: 9, ..ForwardStatus::default() });
            assert_eq!((report.health, report.problems.len()), (Health::Well, 0), "{:?}", report.problems);
        }
        let state = ForwardState::Unavailable;
        let reason = Some("no reply".to_owned());
        let away = ForwardStatus { state, since_seconds: 61, queued: 1, reason, ..ForwardStatus::default() };
        let report = forwarded(ForwardStatus { dropped_last_minute: 1200, ..away.clone() });
        assert_eq!(report.health, Health::Degraded);
        assert_eq!(
            report.problems,
            [
                "forwarding to a:24441: unavailable for 1 minute 1 second: no reply; 1 digest queued",
                "forwarding to a:24441: 1,200 digests dropped in the last minute: the queue is full (ForwardQueue)",
            ]
        );
        let reason = Some("refused: 401, it does not accept the account bob".to_owned());
        let report = forwarded(ForwardStatus { reason, refused_last_minute: 10, ..ForwardStatus::default() });
        assert_eq!(report.health, Health::Degraded);
        assert_eq!(
            report.problems,
            [
                "forwarding to a:24441: 10 digests refused in the last minute: 401, it does not accept the account bob"
            ]
        );
        let silent = |silent, accepted, refused| {
            forwarded(ForwardStatus {
                silent_last_minute: silent,
                accepted_last_minute: accepted,
                refused_last_minute: refused,
                ..ForwardStatus::default()
            })
            .problems
        };
        assert_eq!(silent(10, 990, 0), [""; 0]);
        assert_eq!(
            silent(10, 989, 0),
            [
                "forwarding to a:24441: 10 digests without a reply in the last minute, beside 989 with one: they may not \
                 have been counted there"
            ]
        );
        assert_eq!(silent(10, 0, 990).len(), 1);
        let reports = [EngineStatus { availability: Availability::Unavailable, ..EngineStatus::default() }]
            .map(|storage| judged(storage, |report| report.forwarding = vec![away.clone()]));
        assert_eq!((reports[0].health, reports[0].problems.len()), (Health::Critical, 2));
    }
}
