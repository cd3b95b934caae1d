//! Second opinions, for operators: the state of each server that is asked, and what was asked.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::table;
use super::remote::{RemoteState, code_name};
use super::stats::{durations, total};
use crate::control::figures::{counted, grouped, printable};
use crate::stats::{UpstreamCounts, UpstreamServerCounts};
use crate::upstream::UpstreamStatus;

/// Describes the state: a line for each server, and one for the cache and the checks that wait.
pub(super) fn states(status: &UpstreamStatus) -> Vec<String> {
    let servers = status.servers.iter().map(|server| {
        format!("{}; {} in flight", RemoteState::from(server), counted(server.in_flight, "question"))
    });
    let held =
        format!("{} cached, {} waiting", counted(status.cached, "answer"), counted(status.waiting, "check"));
    servers.chain([held]).collect()
}

/// Returns a table of checks that found nothing in the database, how long those waited that did, and a table of the
/// questions to each server.
pub(super) fn counters(upstream: &UpstreamCounts) -> String {
    let mut checks = checks(upstream);
    if upstream.waited_micros.count > 0 {
        checks += &format!("  waited: {}\n", durations(&upstream.waited_micros));
    }
    if upstream.servers.is_empty() { checks } else { format!("{checks}\n{}", questions(&upstream.servers)) }
}

/// The checks by what became of them. Causes of declined ones are left out if they are zero.
fn checks(upstream: &UpstreamCounts) -> String {
    let row = |name: String, cells: [Option<u64>; 4]| -> Vec<String> {
        [name].into_iter().chain(cells.map(|count| count.map(grouped).unwrap_or_default())).collect()
    };
    let cached = upstream.cached_hits.saturating_add(upstream.cached_misses);
    let mut rows = vec![
        ["checks that missed here", "found", "not found", "unanswered", "total"].map(str::to_owned).to_vec(),
        row(
            "cached".to_owned(),
            [Some(upstream.cached_hits), Some(upstream.cached_misses), None, Some(cached)],
        ),
        row(
            "asked".to_owned(),
            [Some(upstream.found), Some(upstream.not_found), Some(upstream.unanswered), Some(upstream.asked)],
        ),
        row("joined".to_owned(), [None, None, None, Some(upstream.joined)]),
    ];
    let declined = upstream.declined.iter().filter(|(_, count)| **count > 0);
    rows.extend(declined.map(|(cause, count)| {
        let name = format!("declined: {}", printable(&cause.replace('_', " ")));
        row(name, [None, None, None, Some(*count)])
    }));
    table(&rows)
}

/// The questions to each server. Columns of refusals are left out if they are all zero.
fn questions(servers: &BTreeMap<String, UpstreamServerCounts>) -> String {
    let present = |(code, count): (&u16, &u64)| (*count > 0).then_some(*code);
    let codes: BTreeSet<u16> =
        servers.values().flat_map(|counts| &counts.refused).filter_map(present).collect();
    let mut heading = ["questions to", "sent", "answered"].map(str::to_owned).to_vec();
    heading.extend(codes.iter().map(|code| format!("refused {}", code_name(*code))));
    heading.extend(["silent", "unmatched replies"].map(str::to_owned));
    let mut rows = vec![heading];
    for (server, counts) in servers {
        let mut row = vec![printable(server), grouped(counts.sent), grouped(counts.answered)];
        row.extend(codes.iter().map(|code| grouped(counts.refused.get(code).copied().unwrap_or(0))));
        row.extend([counts.silent, counts.unmatched].map(grouped));
        rows.push(row);
    }
    table(&rows)
}

/// Describes what became of checks and of questions: `cached 30, asked 4; found 3, unanswered 1`. None if there were
/// none.
pub(super) fn outcomes(upstream: &UpstreamCounts) -> Option<String> {
    let present = |counts: &[(&str, u64)]| {
        let texts = counts.iter().filter(|(_, count)| *count > 0);
        texts.map(|(name, count)| format!("{name} {}", grouped(*count))).collect::<Vec<_>>().join(", ")
    };
    let checks = present(&[
        ("cached", upstream.cached_hits.saturating_add(upstream.cached_misses)),
        ("asked", upstream.asked),
        ("joined", upstream.joined),
        ("declined", total(upstream.declined.values().copied())),
    ]);
    let questions = present(&[
        ("found", upstream.found),
        ("not found", upstream.not_found),
        ("unanswered", upstream.unanswered),
    ]);
    let texts: Vec<String> = [checks, questions].into_iter().filter(|text| !text.is_empty()).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;
    use crate::upstream::{UpstreamServerStatus, UpstreamState};

    #[test]
    fn state_is_a_line_for_each_server_and_one_for_what_is_held() {
        let available = UpstreamServerStatus {
            server: "a.example:24441".to_owned(),
            user: "bob".to_owned(),
            address: Some("192.0.2.1:24441".to_owned()),
            state: UpstreamState::Available,
            since_seconds: 7300,
            in_flight: 1,
            ..UpstreamServerStatus::default()
        };
        let unavailable = UpstreamServerStatus {
            server: "192.0.2.2:24441".to_owned(),
            user: "anonymous".to_owned(),
            address: Some("192.0.2.2:24441".to_owned()),
            state: UpstreamState::Unavailable,
            since_seconds: 61,
            reason: Some("no reply".to_owned()),
            ..UpstreamServerStatus::default()
        };
        let on_trial = UpstreamServerStatus {
            server: "b:1".to_owned(),
            user: "bob".to_owned(),
            state: UpstreamState::OnTrial,
            in_flight: 1200,
            ..UpstreamServerStatus::default()
        };
        let servers = vec![available, unavailable, on_trial];
        assert_eq!(
            states(&UpstreamStatus { servers, cached: 12_345, waiting: 1 }),
            [
                "a.example:24441 (192.0.2.1:24441) as bob: available for 2 hours 1 minute; 1 question in flight",
                "192.0.2.2:24441 as anonymous: unavailable for 1 minute 1 second: no reply; 0 questions in flight",
                "b:1 as bob: on trial for 0 seconds; 1,200 questions in flight",
                "12,345 answers cached, 1 check waiting",
            ]
        );
    }

    #[test]
    fn counters_are_a_table_of_checks_and_one_of_questions() {
        let mut upstream = UpstreamCounts {
            cached_hits: 300,
            cached_misses: 900,
            asked: 510,
            joined: 20,
            found: 100,
            not_found: 1380,
            unanswered: 20,
            ..UpstreamCounts::default()
        };
        assert_eq!(
            counters(&upstream),
            "  checks that missed here  found  not found  unanswered  total\n  \
             cached                     300        900              1,200\n  \
             asked                      100      1,380          20    510\n  \
             joined                                                    20\n"
        );
        upstream.declined = [("rate", 0), ("local_only", 7), ("busy", 2)]
            .map(|(cause, count)| (cause.to_owned(), count))
            .into();
        let counts = UpstreamServerCounts {
            sent: 1500,
            answered: 1480,
            silent: 20,
            ..UpstreamServerCounts::default()
        };
        upstream.servers.insert("a.example:24441".to_owned(), counts);
        let waited = Histogram::default();
        waited.add(20_000, 530);
        upstream.waited_micros = waited.report();
        assert!(
            counters(&upstream).ends_with(
                "  declined: busy                                             2\n  \
                 declined: local only                                       7\n  \
                 waited: p50 20.5 ms, p90 20.5 ms, p99 20.5 ms, p99.9 20.5 ms, mean 20.0 ms\n\n  \
                 questions to      sent  answered  silent  unmatched replies\n  \
                 a.example:24441  1,500     1,480      20                  0\n"
            ),
            "{}",
            counters(&upstream)
        );
        let mut counts = UpstreamServerCounts { sent: 3, unmatched: 4, ..UpstreamServerCounts::default() };
        [401, 401, 12].into_iter().for_each(|code| counts.refuse(code));
        upstream.servers.insert("b:1".to_owned(), counts);
        assert!(
            counters(&upstream).ends_with(
                "\n\n  \
                 questions to      sent  answered  refused other  refused 401  silent  unmatched replies\n  \
                 a.example:24441  1,500     1,480              0            0      20                  0\n  \
                 b:1                  3         0              1            2       0                  4\n"
            ),
            "{}",
            counters(&upstream)
        );
    }

    #[test]
    fn outcomes_leave_out_what_is_zero() {
        assert_eq!(outcomes(&UpstreamCounts::default()), None);
        let mut upstream = UpstreamCounts { cached_misses: 1200, ..UpstreamCounts::default() };
        assert_eq!(outcomes(&upstream), Some("cached 1,200".to_owned()));
        (upstream.cached_hits, upstream.asked, upstream.joined) = (3, 5, 2);
        upstream.declined = [("rate".to_owned(), 4), ("busy".to_owned(), 2)].into();
        (upstream.found, upstream.not_found, upstream.unanswered) = (1, 2, 3);
        assert_eq!(
            outcomes(&upstream),
            Some(
                "cached 1,203, asked 5, joined 2, declined 6; found 1, not found 2, unanswered 3".to_owned()
            )
        );
    }
}
