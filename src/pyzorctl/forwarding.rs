//! Forwarding, for operators: the state of each server, and what was forwarded to it.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::table;
use super::remote::{RemoteState, code_name};
use super::stats::total;
use crate::control::figures::{counted, grouped, printable};
use crate::forward::ForwardStatus;
use crate::stats::ForwardCounts;

/// Describes the state of one server: its address and account, whether it takes requests, and what waits for it.
pub(super) fn state(status: &ForwardStatus) -> String {
    format!(
        "{}; {} queued, {} in flight",
        RemoteState::from(status),
        counted(status.queued, "digest"),
        counted(status.in_flight, "request"),
    )
}

/// Returns a table of what was forwarded to each server; empty if nothing is forwarded. Columns of refusals and of
/// requests sent again are left out if they are all zero.
pub(super) fn counters(forwarding: &BTreeMap<String, ForwardCounts>) -> String {
    if forwarding.is_empty() {
        return String::new();
    }
    let present = |(code, count): (&u16, &u64)| (*count > 0).then_some(*code);
    let codes: BTreeSet<u16> =
        forwarding.values().flat_map(|counts| &counts.refused).filter_map(present).collect();
    let has_resent = forwarding.values().any(|counts| counts.resent > 0);
    let mut heading = vec!["digests forwarded to".to_owned(), "accepted".to_owned()];
    heading.extend(codes.iter().map(|code| format!("refused {}", code_name(*code))));
    heading.extend(["silent", "dropped", "requests"].map(str::to_owned));
    heading.extend(has_resent.then(|| "resent".to_owned()));
    let mut rows = vec![heading];
    for (server, counts) in forwarding {
        let mut row = vec![printable(server), grouped(counts.accepted)];
        row.extend(codes.iter().map(|code| grouped(counts.refused.get(code).copied().unwrap_or(0))));
        row.extend([counts.silent, counts.dropped, counts.requests].map(grouped));
        row.extend(has_resent.then(|| grouped(counts.resent)));
        rows.push(row);
    }
    table(&rows)
}

/// Describes what was forwarded to all servers together: `accepted 120, dropped 3`. None if it is nothing.
pub(super) fn outcomes(forwarding: &BTreeMap<String, ForwardCounts>) -> Option<String> {
    let sum = |of: fn(&ForwardCounts) -> u64| total(forwarding.values().map(of));
    let outcomes = [
        ("accepted", sum(|counts| counts.accepted)),
        ("refused", sum(ForwardCounts::refusals)),
        ("silent", sum(|counts| counts.silent)),
        ("dropped", sum(|counts| counts.dropped)),
    ];
    let present = outcomes.into_iter().filter(|(_, count)| *count > 0);
    let texts: Vec<String> = present.map(|(name, count)| format!("{name} {}", grouped(count))).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::ForwardState;

    #[test]
    fn state_is_one_line() {
        let mut status = ForwardStatus {
            server: "a.example:24441".to_owned(),
            user: "bob".to_owned(),
            address: Some("192.0.2.1:24441".to_owned()),
            state: ForwardState::Available,
            since_seconds: 7300,
            queued: 1,
            in_flight: 12,
            ..ForwardStatus::default()
        };
        assert_eq!(
            state(&status),
            "a.example:24441 (192.0.2.1:24441) as bob: available for 2 hours 1 minute; 1 digest queued, 12 requests \
             in flight"
        );
        status.address = Some(status.server.clone());
        (status.state, status.reason) = (ForwardState::Unavailable, Some("no reply".to_owned()));
        (status.user, status.queued, status.in_flight) = ("anonymous".to_owned(), 10_000, 0);
        assert_eq!(
            state(&status),
            "a.example:24441 as anonymous: unavailable for 2 hours 1 minute: no reply; 10,000 digests queued, \
             0 requests in flight"
        );
    }

    #[test]
    fn counters_have_a_column_for_each_code_that_occurred() {
        assert_eq!(counters(&BTreeMap::new()), "");
        let mut forwarding = BTreeMap::new();
        let counts = ForwardCounts { requests: 123, accepted: 1200, silent: 30, ..ForwardCounts::default() };
        forwarding.insert("a.example:24441".to_owned(), counts);
        assert_eq!(
            counters(&forwarding),
            "  digests forwarded to  accepted  silent  dropped  requests\n  \
             a.example:24441          1,200      30        0       123\n"
        );
        let mut counts = ForwardCounts { resent: 4, dropped: 7, ..ForwardCounts::default() };
        counts.refuse(401, 5);
        counts.refuse(12, 6);
        forwarding.insert("b:1".to_owned(), counts);
        assert_eq!(
            counters(&forwarding),
            "  digests forwarded to  accepted  refused other  refused 401  silent  dropped  requests  resent\n  \
             a.example:24441          1,200              0            0      30        0       123       0\n  \
             b:1                          0              6            5       0        7         0       4\n"
        );
        assert_eq!(
            outcomes(&forwarding),
            Some("accepted 1,200, refused 11, silent 30, dropped 7".to_owned())
        );
        assert_eq!(outcomes(&BTreeMap::from([("c:1".to_owned(), ForwardCounts::default())])), None);
    }
}
