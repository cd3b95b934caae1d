//! The state of a database, as operators see it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The state of an engine and its database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// The availability of the database.
    pub availability: Availability,
    /// The time since the availability changed, in seconds; none if it never changed or the engine does not know.
    pub since_seconds: Option<u64>,
    /// The reason, if the database is not fully available: one line, without a password.
    pub reason: Option<String>,
    /// The number of records, exact or estimated; none if it is unknown. Includes keys that are not digests, if the
    /// engine does not look at each key.
    pub records: Option<u64>,
    /// The size of the database in bytes, on the disk or in memory; none if it is unknown.
    pub bytes: Option<u64>,
    /// The time since everything was last known to be durable, in seconds: the age of the oldest change that a crash of
    /// the machine could undo, and 0 if there is none. It stays 0 while there is nothing to sync, grows to the period
    /// of syncs under load, and grows on while syncs fail or hang. None if the store itself takes care of syncs.
    pub synced_seconds_ago: Option<u64>,
    /// The last expiry; none before the first, or if the store expires records by itself.
    pub last_expiry: Option<ExpiryStatus>,
    /// The time until the next expiry, in seconds, 0 while it runs; none if none is planned.
    pub next_expiry_in_seconds: Option<u64>,
    /// Other problems that an operator must know: one line each.
    pub problems: Vec<String>,
}

/// The availability of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Look-ups and changes work.
    #[default]
    Available,
    /// Look-ups work, changes are refused.
    ReadOnly,
    /// Some of the database's servers are unavailable or refuse changes.
    Partial,
    /// Nothing works.
    Unavailable,
}

/// The result of an expiry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpiryStatus {
    /// The time since its end, in seconds.
    pub seconds_ago: u64,
    /// The records that were removed.
    pub removed: u64,
    /// The records that were visited.
    pub visited: u64,
    /// The reason if it failed: one line.
    pub error: Option<String>,
}

/// The last and the next expiry of an engine that deletes expired records itself.
#[derive(Debug, Default)]
pub(super) struct ExpiryTimes {
    /// The last result, and the time of its end.
    last: Option<(Instant, ExpiryStatus)>,
    next: Option<Instant>,
}

impl ExpiryTimes {
    /// Records the end of an expiry, and the time of the next one.
    pub(super) fn ended(&mut self, result: ExpiryStatus, next: Instant) {
        self.last = Some((Instant::now(), result));
        self.next = Some(next);
    }

    /// Records the time of the next expiry.
    pub(super) fn plan(&mut self, next: Instant) {
        self.next = Some(next);
    }

    /// Adds both to a status.
    pub(super) fn describe(&self, status: &mut EngineStatus, now: Instant) {
        status.last_expiry = self.last.as_ref().map(|(end, result)| ExpiryStatus {
            seconds_ago: now.saturating_duration_since(*end).as_secs(),
            ..result.clone()
        });
        status.next_expiry_in_seconds = self.next.map(|next| next.saturating_duration_since(now).as_secs());
    }
}

/// Returns a reason as one line of limited length, because it can contain texts of a server.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut line: String = text.chars().take(LONGEST).map(printable).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn expiry_is_described_relative_to_now() {
        let (mut times, mut status) = (ExpiryTimes::default(), EngineStatus::default());
        times.describe(&mut status, Instant::now());
        assert_eq!((&status.last_expiry, status.next_expiry_in_seconds), (&None, None));
        let start = Instant::now();
        times.plan(start);
        times.describe(&mut status, start + Duration::from_secs(5));
        assert_eq!(status.next_expiry_in_seconds, Some(0));
        let result = ExpiryStatus { removed: 3, visited: 9, ..ExpiryStatus::default() };
        times.ended(result.clone(), start + Duration::from_secs(100));
        times.describe(&mut status, start + Duration::from_secs(70));
        assert_eq!(status.next_expiry_in_seconds, Some(30));
        let last = status.last_expiry.unwrap();
        assert!((60..=70).contains(&last.seconds_ago), "{last:?}");
        assert_eq!(ExpiryStatus { seconds_ago: 0, ..last }, result);
    }

    #[test]
    fn reason_is_one_short_line() {
        assert_eq!(one_line("a\nb\x1b[0m"), "a b [0m");
        assert_eq!(one_line(&"ü".repeat(500)).chars().count(), 401);
    }
}
