//! The outages of other servers that are logged.

use std::time::{Duration, Instant};

/// Chooses the outages that are reported: one a minute, with its beginning and its end.
#[derive(Debug, Default)]
pub(crate) struct OutageLines {
    /// The time of the last outage that was reported.
    reported: Option<Instant>,
    /// The reason of an outage that goes on and was not reported yet.
    unreported: Option<String>,
    /// The number of outages that ended before they were reported, since the last one that was.
    withheld: u64,
}

impl OutageLines {
    const PERIOD: Duration = Duration::from_secs(60);

    /// An outage begins, for this reason.
    pub(crate) fn begin(&mut self, reason: String) {
        self.unreported = Some(reason);
    }

    /// An outage is over. Returns whether its end is reported, because its beginning was.
    pub(crate) fn end(&mut self) -> bool {
        let is_reported = self.unreported.take().is_none();
        self.withheld += u64::from(!is_reported);
        is_reported
    }

    /// Returns the reason of an outage that is to be reported now, with the number of those that were not reported since the
    /// last line.
    pub(crate) fn due(&mut self, now: Instant) -> Option<String> {
        if self.reported.is_some_and(|last| now.saturating_duration_since(last) < Self::PERIOD) {
            return None;
        }
        let reason = self.unreported.take()?;
        self.reported = Some(now);
        Some(match std::mem::take(&mut self.withheld) {
            0 => reason,
            withheld => format!("{reason} (and {withheld} more times since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outage_a_minute_is_reported_and_one_that_lasts_always() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut outages = OutageLines::default();
        assert_eq!(outages.due(begin), None);
        outages.begin("a".to_owned());
        assert_eq!(outages.due(begin), Some("a".to_owned()));
        assert!(outages.due(begin).is_none() && outages.end());
        for second in 1..=5 {
            outages.begin("b".to_owned());
            assert!(outages.due(at(second)).is_none() && !outages.end());
        }
        outages.begin("c".to_owned());
        assert_eq!(
            (outages.due(at(59)), outages.due(at(60))),
            (None, Some("c (and 5 more times since the last such line)".to_owned()))
        );
        assert!(outages.end());
    }
}
