//! The metrics of second opinions.

use std::collections::BTreeMap;
use std::fmt;

use super::families::Families;
use super::remote::{label, refusals};
use crate::stats::{DeclineCause, UpstreamCounts, UpstreamServerCounts};
use crate::upstream::{UpstreamServerStatus, UpstreamStatus};

/// A number of one server.
type QuestionCountOf = fn(&UpstreamServerCounts) -> u64;

/// Writes states and counters.
pub(super) fn write(
    families: &mut Families<'_>,
    status: &UpstreamStatus,
    counts: &UpstreamCounts,
) -> fmt::Result {
    let checks = [
        ("cached_hit", counts.cached_hits),
        ("cached_miss", counts.cached_misses),
        ("asked", counts.asked),
        ("joined", counts.joined),
    ];
    let checks = checks.map(|(result, count)| (result.to_owned(), count)).into_iter();
    // Counters are there from the start, so that a rate sees the first event.
    let declined = DeclineCause::ALL
        .map(DeclineCause::name)
        .map(|cause| (format!("declined_{cause}"), counts.declined.get(cause).copied().unwrap_or(0)));
    let checks = checks.chain(declined).map(|(result, count)| ([("result", result)], count));
    families.counters(("pyzord_upstream_checks", "Checks that missed here, by what followed"), checks)?;
    let answers =
        [("found", counts.found), ("not_found", counts.not_found), ("unanswered", counts.unanswered)];
    let answers = answers.map(|(result, count)| ([("result", result)], count));
    families.counters(("pyzord_upstream_answers", "Questions about a digest, by answer"), answers)?;
    let wait = (
        "pyzord_upstream_wait_duration",
        "The time from the receipt of a check that waited for an answer to its reply",
    );
    families.durations(wait, &counts.waited_micros)?;
    let cached = ("pyzord_upstream_cached_answers", "Answers in the cache");
    families.gauge(cached, None, status.cached)?;
    let waiting = ("pyzord_upstream_waiting_checks", "Checks that wait for an answer");
    families.gauge(waiting, None, status.waiting)?;
    // A page with one series twice is refused as a whole.
    let servers: BTreeMap<&str, &UpstreamServerStatus> =
        status.servers.iter().map(|status| (status.server.as_str(), status)).collect();
    if servers.is_empty() {
        return Ok(());
    }
    write_states(families, &servers)?;
    let none = UpstreamServerCounts::default();
    let counts: Vec<_> =
        servers.keys().map(|server| (*server, counts.servers.get(*server).unwrap_or(&none))).collect();
    write_counts(families, &counts)
}

fn write_states(families: &mut Families<'_>, servers: &BTreeMap<&str, &UpstreamServerStatus>) -> fmt::Result {
    let up = servers.iter().map(|(server, status)| (label(server), u64::from(status.state.is_up())));
    let help = "0 if a server that is asked for second opinions is unavailable or on trial";
    families.gauges(("pyzord_upstream_up", help), up)?;
    let in_flight = servers.iter().map(|(server, status)| (label(server), status.in_flight));
    families.gauges(("pyzord_upstream_in_flight_questions", "Questions that wait for a reply"), in_flight)
}

fn write_counts(families: &mut Families<'_>, counts: &[(&str, &UpstreamServerCounts)]) -> fmt::Result {
    let outcomes: [(&str, QuestionCountOf); 3] = [
        ("answered", |counts| counts.answered),
        ("refused", UpstreamServerCounts::refusals),
        ("silent", |counts| counts.silent),
    ];
    let questions = counts.iter().flat_map(|(server, counts)| {
        outcomes.map(|(outcome, of)| ((label(server), [("outcome", outcome)]), of(counts)))
    });
    families.counters(("pyzord_upstream_questions", "Questions to a server by outcome"), questions)?;
    let refused = counts.iter().flat_map(|(server, counts)| refusals(server, &counts.refused));
    let by_code = ("pyzord_upstream_refused_questions", "Questions by code of refusal");
    families.counters(by_code, refused)?;
    let unmatched = counts.iter().map(|(server, counts)| (label(server), counts.unmatched));
    let help = "Replies to no question under way: late, repeated or forged";
    families.counters(("pyzord_upstream_unmatched_replies", help), unmatched)
}
