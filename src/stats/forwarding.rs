//! What was forwarded to other servers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CODES;

/// The code under which refusals with an unknown code are counted, so that a faulty server cannot fill the table.
pub(crate) const OTHER_CODE: u16 = 0;

/// What was forwarded to one server since the start, in digests, unless another unit is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForwardCounts {
    /// Requests sent for the first time.
    pub(crate) requests: u64,
    /// Requests sent again.
    pub(crate) resent: u64,
    /// Digests that the server has counted, as it replied.
    pub(crate) accepted: u64,
    /// Digests in refused requests, by the code of the reply; 0 for codes that no server of Pyzor has.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Digests in requests without a reply: they may have been counted, or not.
    pub(crate) silent: u64,
    /// Digests that were never sent, because the queue was full, or the server was removed or this one stopped.
    pub(crate) dropped: u64,
}

impl ForwardCounts {
    /// Counts digests in a refused request.
    pub(crate) fn refuse(&mut self, code: u16, digests: u64) {
        let code = if CODES.contains(&code) { code } else { OTHER_CODE };
        let count = self.refused.entry(code).or_default();
        *count = count.saturating_add(digests);
    }

    /// Returns the number of refused digests.
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the number of digests that the server has not counted for certain.
    pub(crate) fn undelivered(&self) -> u64 {
        [self.refusals(), self.silent, self.dropped].into_iter().fold(0, u64::saturating_add)
    }

    /// Returns what was counted since earlier counts of the same server.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let refused = self.refused.iter().map(|(code, count)| {
            let before = earlier.refused.get(code).copied().unwrap_or(0);
            (*code, count.saturating_sub(before))
        });
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            resent: self.resent.saturating_sub(earlier.resent),
            accepted: self.accepted.saturating_sub(earlier.accepted),
            refused: refused.collect(),
            silent: self.silent.saturating_sub(earlier.silent),
            dropped: self.dropped.saturating_sub(earlier.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_a_bounded_number_of_codes() {
        let mut counts = ForwardCounts::default();
        for code in 0..=u16::MAX {
            counts.refuse(code, 1);
        }
        assert_eq!((counts.refused.len(), counts.refused[&401]), (CODES.len() + 1, 1));
        assert_eq!((counts.refused[&OTHER_CODE], counts.refusals()), (65_536 - CODES.len() as u64, 65_536));
    }

    #[test]
    fn difference_of_counts_is_what_was_counted_between() {
        let mut counts = ForwardCounts { requests: 7, accepted: 60, silent: 5, ..ForwardCounts::default() };
        counts.refuse(401, 5);
        let before = counts.clone();
        (counts.requests, counts.accepted, counts.resent, counts.dropped) = (9, 70, 1, 4);
        counts.refuse(401, 2);
        counts.refuse(403, 8);
        let between = counts.since(&before);
        assert_eq!((between.requests, between.resent, between.accepted, between.silent), (2, 1, 10, 0));
        assert_eq!((between.refused[&401], between.refused[&403], between.undelivered()), (2, 8, 14));
        assert_eq!(before.since(&counts).undelivered(), 0);
    }
}
