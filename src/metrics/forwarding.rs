//! The metrics of forwarding.

use std::collections::BTreeMap;
use std::fmt;

use super::families::Families;
use super::remote::{label, refusals};
use crate::forward::ForwardStatus;
use crate::stats::{ForwardCounts, StatsReport};

/// A number of one server.
type CountOf = fn(&ForwardCounts) -> u64;

/// Writes state and counters of each server. Those are left out if nothing is forwarded.
pub(super) fn write(
    families: &mut Families<'_>,
    status: &[ForwardStatus],
    stats: &StatsReport,
) -> fmt::Result {
    let copies =
        ("pyzord_forward_copies", "Forwarded requests that had arrived before and were not counted again");
    families.counter(copies, stats.forward_copies)?;
    // A page with one series twice is refused as a whole.
    let servers: BTreeMap<&str, &ForwardStatus> =
        status.iter().map(|status| (status.server.as_str(), status)).collect();
    if servers.is_empty() {
        return Ok(());
    }
    write_states(families, &servers)?;
    // Counters are there from the start, so that a rate sees the first event.
    let none = ForwardCounts::default();
    let counts: Vec<_> =
        servers.keys().map(|server| (*server, stats.forwarding.get(*server).unwrap_or(&none))).collect();
    write_counts(families, &counts)
}

fn write_states(families: &mut Families<'_>, servers: &BTreeMap<&str, &ForwardStatus>) -> fmt::Result {
    let each = |of: fn(&ForwardStatus) -> u64| {
        let labelled = servers.iter().map(move |(server, status)| (label(server), of(status)));
        labelled.collect::<Vec<_>>()
    };
    let up =
        ("pyzord_forward_up", "0 if a server that reports are forwarded to is unavailable or catching up");
    families.gauges(up, each(|status| u64::from(status.state.is_up())))?;
    let queued = ("pyzord_forward_queued_digests", "Digests that wait to be forwarded");
    families.gauges(queued, each(|status| status.queued))?;
    let in_flight = ("pyzord_forward_in_flight_requests", "Forwarded requests that wait for a reply");
    families.gauges(in_flight, each(|status| status.in_flight))
}

fn write_counts(families: &mut Families<'_>, counts: &[(&str, &ForwardCounts)]) -> fmt::Result {
    let each = |of: CountOf| {
        counts.iter().map(move |(server, counts)| (label(server), of(counts))).collect::<Vec<_>>()
    };
    let requests = ("pyzord_forward_requests", "Forwarded requests that were sent for the first time");
    families.counters(requests, each(|counts| counts.requests))?;
    let resent = ("pyzord_forward_resent", "Forwarded requests that were sent again");
    families.counters(resent, each(|counts| counts.resent))?;
    let outcomes: [(&str, CountOf); 4] = [
        ("accepted", |counts| counts.accepted),
        ("refused", ForwardCounts::refusals),
        ("silent", |counts| counts.silent),
        ("dropped", |counts| counts.dropped),
    ];
    let digests = counts.iter().flat_map(|(server, counts)| {
        outcomes.map(|(outcome, of)| ((label(server), [("outcome", outcome)]), of(counts)))
    });
    families.counters(("pyzord_forward_digests", "Forwarded digests by outcome"), digests)?;
    let refused = counts.iter().flat_map(|(server, counts)| refusals(server, &counts.refused));
    families.counters(("pyzord_forward_refused_digests", "Forwarded digests by code of refusal"), refused)
}
