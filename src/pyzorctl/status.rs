//! The state of a server, for operators.

use super::forwarding;
use super::layout::labelled;
use super::upstream;
use crate::control::figures::{bytes, grouped, long_period, period, printable, rate};
use crate::control::reply::StatusReport;
use crate::control::summary::availability_name;
use crate::storage::{EngineStatus, ExpiryStatus};

/// Returns the state on one screen: the summary, the problems, and then everything else.
pub(super) fn render(status: &StatusReport) -> String {
    let storage = &status.storage;
    let mut lines: Vec<(&str, String)> = Vec::new();
    let others = storage.problems.iter().filter(|problem| !status.problems.contains(problem));
    lines.extend(status.problems.iter().chain(others).map(|problem| ("problem", problem.clone())));
    lines.extend([
        ("version", format!("{} ({})", status.version, status.build)),
        ("process", format!("{}, user {}", status.pid, status.user)),
        ("address", status.address.clone()),
        ("started", format!("{}, {} ago", status.started, long_period(status.uptime_seconds))),
        ("confinement", without_prefix(&status.confinement, "Confinement: ")),
        ("database", status.database.clone()),
        ("state", state(storage)),
    ]);
    lines.extend(size(storage).map(|text| ("records", text)));
    lines.extend(storage.synced_seconds_ago.map(|ago| ("synced", format!("{} ago", long_period(ago)))));
    lines.extend(expiry(storage).map(|text| ("expiry", text)));
    lines.extend([
        ("accounts", format!("{}, loaded {}", grouped(status.accounts as u64), status.loaded)),
        (
            "requests",
            format!(
                "{} per second in the last 10 seconds, {} since the start",
                rate(status.requests_per_second),
                grouped(status.replies)
            ),
        ),
        (
            "dropped",
            format!(
                "{} in the last minute for lack of capacity, {} since the start for any reason",
                grouped(status.lost_last_minute),
                grouped(status.drops)
            ),
        ),
    ]);
    lines.extend(status.forwarding.iter().map(|server| ("forwarding", forwarding::state(server))));
    lines.extend(status.upstream.iter().flat_map(upstream::states).map(|text| ("upstream", text)));
    for (_, text) in &mut lines {
        *text = printable(text);
    }
    format!("{}\n{}", status.summary(), labelled(&lines))
}

/// A line of the log without the words that its label repeats, and without the period at its end.
fn without_prefix(text: &str, prefix: &str) -> String {
    text.strip_prefix(prefix).unwrap_or(text).trim_end_matches('.').to_owned()
}

/// The availability of the database, since when, and why.
fn state(storage: &EngineStatus) -> String {
    let since = storage.since_seconds.map(|seconds| format!(" for {}", long_period(seconds)));
    let reason = storage.reason.as_ref().map(|reason| format!(": {reason}"));
    let name = availability_name(storage.availability);
    [name, &since.unwrap_or_default(), &reason.unwrap_or_default()].concat()
}

fn size(storage: &EngineStatus) -> Option<String> {
    match (storage.records, storage.bytes) {
        (Some(records), Some(size)) => Some(format!("{}, {}", grouped(records), bytes(size))),
        (Some(records), None) => Some(grouped(records)),
        (None, Some(size)) => Some(format!("{}, of an unknown number of records", bytes(size))),
        (None, None) => None,
    }
}

fn expiry(storage: &EngineStatus) -> Option<String> {
    let last = storage.last_expiry.as_ref().map(|last| {
        let ExpiryStatus { seconds_ago, removed, visited, error } = last;
        let outcome = match error {
            Some(error) => format!("failed: {error}; "),
            None => String::new(),
        };
        format!(
            "{} ago: {outcome}removed {} of {} records",
            long_period(*seconds_ago),
            grouped(*removed),
            grouped(*visited)
        )
    });
    let next = storage.next_expiry_in_seconds.map(|seconds| format!("next in {}", period(seconds)));
    match (last, next) {
        (None, None) => None,
        (Some(text), None) | (None, Some(text)) => Some(text),
        (Some(last), Some(next)) => Some(format!("{last}; {next}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply::Health;
    use crate::forward::ForwardStatus;
    use crate::storage::Availability;
    use crate::upstream::{UpstreamServerStatus, UpstreamStatus};

    fn forwarded(server: &str) -> ForwardStatus {
        ForwardStatus { server: server.to_owned(), user: "bob".to_owned(), ..ForwardStatus::default() }
    }

    fn asked(server: &str) -> UpstreamServerStatus {
        UpstreamServerStatus {
            server: server.to_owned(),
            user: "bob".to_owned(),
            ..UpstreamServerStatus::default()
        }
    }

    fn status() -> StatusReport {
        StatusReport {
            version: "1.2.3".to_owned(),
            build: "release".to_owned(),
            pid: 42,
            address: "0.0.0.0:24441".to_owned(),
            started: "2026-11-25T08:00:00Z".to_owned(),
            uptime_seconds: 300_000,
            user: "pyzord".to_owned(),
            confinement: "Confinement: landlock and seccomp.".to_owned(),
            engine: "gdbm".to_owned(),
            database: "gdbm, /var/lib/pyzord/pyzord.db".to_owned(),
            storage: EngineStatus {
                records: Some(1_234_567),
                bytes: Some(123_456_789),
                synced_seconds_ago: Some(12),
                last_expiry: Some(ExpiryStatus { seconds_ago: 7300, removed: 5, visited: 1000, error: None }),
                next_expiry_in_seconds: Some(79_200),
                ..EngineStatus::default()
            },
            accounts: 3,
            loaded: "2026-11-25T08:00:00Z".to_owned(),
            replies: 12_345,
            requests_per_second: 12.3,
            drops: 7,
            lost_last_minute: 1,
            forwarding: ["a:24441", "b\n:1"].map(forwarded).to_vec(),
            upstream: Some(UpstreamStatus {
                servers: ["c:24441", "d\x1b:1"].map(asked).to_vec(),
                cached: 1200,
                waiting: 3,
            }),
            ..StatusReport::default()
        }
    }

    #[test]
    fn screen_has_everything_after_the_summary() {
        let expected = "\
well: 12.3 requests/s, gdbm available, up 3 days
  version      1.2.3 (release)
  process      42, user pyzord
  address      0.0.0.0:24441
  started      2026-11-25T08:00:00Z, 3 days 11 hours ago
  confinement  landlock and seccomp
  database     gdbm, /var/lib/pyzord/pyzord.db
  state        available
  records      1,234,567, 117.7 MiB
  synced       12 seconds ago
  expiry       2 hours 1 minute ago: removed 5 of 1,000 records; next in 22 hours
  accounts     3, loaded 2026-11-25T08:00:00Z
  requests     12.3 per second in the last 10 seconds, 12,345 since the start
  dropped      1 in the last minute for lack of capacity, 7 since the start for any reason
  forwarding   a:24441 as bob: untried for 0 seconds; 0 digests queued, 0 requests in flight
  forwarding   b\\n:1 as bob: untried for 0 seconds; 0 digests queued, 0 requests in flight
  upstream     c:24441 as bob: untried for 0 seconds; 0 questions in flight
  upstream     d\\u{1b}:1 as bob: untried for 0 seconds; 0 questions in flight
  upstream     1,200 answers cached, 3 checks waiting
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn problems_come_first_and_once() {
        let mut status = StatusReport {
            upstream: None,
            health: Health::Critical,
            problems: vec!["the database is gone".to_owned(), "b".to_owned()],
            ..status()
        };
        status.storage = EngineStatus {
            availability: Availability::Unavailable,
            since_seconds: Some(61),
            reason: Some("refused\n\x1b[2J".to_owned()),
            problems: vec!["b".to_owned(), "c".to_owned()],
            ..EngineStatus::default()
        };
        let text = render(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "critical: the database is gone (and 1 more); 12.3 requests/s, gdbm unavailable, up 3 days",
                "  problem      the database is gone",
                "  problem      b",
                "  problem      c",
            ]
        );
        assert!(
            lines.contains(&r"  state        unavailable for 1 minute 1 second: refused\n\u{1b}[2J"),
            "{text}"
        );
        assert!(!text.contains("records") && !text.contains("upstream"), "{text}");
    }
}
