//! Counters of second opinions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CODES, Counter, Histogram, HistogramReport, OTHER_CODE};

/// The reason why no other server was asked about a check that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeclineCause {
    /// `UpstreamRate` was exceeded.
    Rate,
    /// Too many questions or checks were under way.
    Busy,
    /// No server was available.
    Unavailable,
    /// The check demanded the answer of this database alone: it came from a server that asked for a second opinion
    /// itself, or from `pyzorctl health`.
    LocalOnly,
}

impl DeclineCause {
    /// All causes, in the order of their counters.
    pub(crate) const ALL: [Self; 4] = [Self::Rate, Self::Busy, Self::Unavailable, Self::LocalOnly];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::LocalOnly => "local_only",
        }
    }
}

/// The counters of second opinions that the server loop writes. A check that found nothing in the database counts in
/// exactly one of `cached_hits`, `cached_misses`, `asked`, `joined` and `declined`.
#[derive(Debug, Default)]
pub(crate) struct UpstreamCounters {
    /// Checks answered from the cache with counts above 0.
    pub(crate) cached_hits: Counter,
    /// Checks answered from the cache with a miss.
    pub(crate) cached_misses: Counter,
    /// Checks that caused a question.
    pub(crate) asked: Counter,
    /// Checks that waited for the answer to a question under way.
    pub(crate) joined: Counter,
    /// Checks without a second opinion, by [`DeclineCause`].
    pub(crate) declined: [Counter; DeclineCause::ALL.len()],
    /// Questions that found a count above 0.
    pub(crate) found: Counter,
    /// Questions to which all servers that answered in time have no count.
    pub(crate) not_found: Counter,
    /// Questions that no server has answered in time.
    pub(crate) unanswered: Counter,
    /// The number of answers in the cache.
    pub(crate) cached: Counter,
    /// The number of checks that wait for an answer.
    pub(crate) waiting: Counter,
    /// The time from the receipt of a check that waited for other servers to its reply, in microseconds.
    pub(crate) waited: Histogram,
}

impl UpstreamCounters {
    /// Returns the counters, without those of the servers.
    pub(crate) fn report(&self) -> UpstreamCounts {
        let declined = DeclineCause::ALL.into_iter().zip(&self.declined);
        UpstreamCounts {
            cached_hits: self.cached_hits.get(),
            cached_misses: self.cached_misses.get(),
            asked: self.asked.get(),
            joined: self.joined.get(),
            declined: declined.map(|(cause, count)| (cause.name().to_owned(), count.get())).collect(),
            found: self.found.get(),
            not_found: self.not_found.get(),
            unanswered: self.unanswered.get(),
            waited_micros: self.waited.report(),
            servers: BTreeMap::new(),
        }
    }
}

/// What second opinions were asked for since the start: see [`UpstreamCounters`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamCounts {
    pub(crate) cached_hits: u64,
    pub(crate) cached_misses: u64,
    pub(crate) asked: u64,
    pub(crate) joined: u64,
    /// Checks without a second opinion, by the name of their [`DeclineCause`].
    pub(crate) declined: BTreeMap<String, u64>,
    pub(crate) found: u64,
    pub(crate) not_found: u64,
    pub(crate) unanswered: u64,
    /// The time from the receipt of a check that waited for other servers to its reply, in microseconds.
    pub(crate) waited_micros: HistogramReport,
    /// The questions to each server, by its host and port in the servers file.
    pub(crate) servers: BTreeMap<String, UpstreamServerCounts>,
}

/// The questions to one server since the start. Pings are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamServerCounts {
    /// Questions sent.
    pub(crate) sent: u64,
    /// Questions answered in time, with counts.
    pub(crate) answered: u64,
    /// Questions refused in time, by the code of the reply; 0 for codes that no server of Pyzor has.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Questions without a reply in time, also because of an error of the network.
    pub(crate) silent: u64,
    /// Replies that belong to no question under way: late, repeated or forged.
    pub(crate) unmatched: u64,
}

impl UpstreamServerCounts {
    /// Counts a refused question.
    pub(crate) fn refuse(&mut self, code: u16) {
        let code = if CODES.contains(&code) { code } else { OTHER_CODE };
        let count = self.refused.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    /// Returns the number of refused questions.
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns what was counted since earlier counts of the same server.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let refused = self.refused.iter().map(|(code, count)| {
            (*code, count.saturating_sub(earlier.refused.get(code).copied().unwrap_or(0)))
        });
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            answered: self.answered.saturating_sub(earlier.answered),
            refused: refused.collect(),
            silent: self.silent.saturating_sub(earlier.silent),
            unmatched: self.unmatched.saturating_sub(earlier.unmatched),
        }
    }
}

impl UpstreamCounts {
    /// Returns what was counted since earlier counts.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let declined = self.declined.iter().map(|(cause, count)| {
            (cause.clone(), count.saturating_sub(earlier.declined.get(cause).copied().unwrap_or(0)))
        });
        let servers = self.servers.iter().map(|(server, counts)| {
            let since = earlier.servers.get(server).map(|before| counts.since(before));
            (server.clone(), since.unwrap_or_else(|| counts.clone()))
        });
        Self {
            cached_hits: self.cached_hits.saturating_sub(earlier.cached_hits),
            cached_misses: self.cached_misses.saturating_sub(earlier.cached_misses),
            asked: self.asked.saturating_sub(earlier.asked),
            joined: self.joined.saturating_sub(earlier.joined),
            declined: declined.collect(),
            found: self.found.saturating_sub(earlier.found),
            not_found: self.not_found.saturating_sub(earlier.not_found),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            waited_micros: self.waited_micros.since(&earlier.waited_micros),
            servers: servers.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_of_counts_is_what_was_counted_between() {
        let counters = UpstreamCounters::default();
        counters.asked.add(3);
        counters.waited.add(1000, 3);
        counters.declined[DeclineCause::Busy as usize].add(2);
        let mut before = counters.report();
        before.servers.entry("a:1".to_owned()).or_default().refuse(403);
        counters.asked.add(4);
        counters.waited.add(7, 1);
        counters.declined[DeclineCause::Busy as usize].add(1);
        let mut now = counters.report();
        now.servers = before.servers.clone();
        now.servers.entry("a:1".to_owned()).or_default().refuse(403);
        now.servers.entry("a:1".to_owned()).or_default().refuse(499);
        now.servers.entry("b:1".to_owned()).or_default().silent = 5;
        let between = now.since(&before);
        assert_eq!((between.asked, between.joined, between.declined["busy"]), (4, 0, 1));
        assert_eq!((between.waited_micros.count, between.waited_micros.sum), (1, 7));
        assert_eq!((between.servers["a:1"].refused[&403], between.servers["a:1"].refusals()), (1, 2));
        assert_eq!(between.servers["b:1"].silent, 5);
    }
}
