//! The log lines on digests that another server has not counted.

use crate::stats::{ForwardCounts, OTHER_CODE};

/// Describes what one server has not counted since the last report.
#[derive(Debug, Default)]
pub(super) struct Shortfall {
    /// The counters at the last report.
    reported: ForwardCounts,
}

impl Shortfall {
    /// Returns a line if the server has not counted everything since the last call.
    pub(super) fn line(&mut self, server: &str, counts: ForwardCounts) -> Option<String> {
        let period = counts.since(&self.reported);
        self.reported = counts;
        (period.undelivered() > 0)
            .then(|| format!("Forwarding to {server} since the last report: {}", outcomes(&period)))
    }
}

/// The outcomes of digests, those first that the server has not counted for certain.
fn outcomes(period: &ForwardCounts) -> String {
    let ForwardCounts { accepted, refused, silent, dropped, .. } = period;
    let mut parts = Vec::new();
    if *dropped > 0 {
        parts.push(format!("{dropped} digests dropped and not sent"));
    }
    for (code, count) in refused.iter().filter(|(_, count)| **count > 0) {
        let code = if *code == OTHER_CODE { "an unknown code".to_owned() } else { format!("code {code}") };
        parts.push(format!("{count} refused with {code}"));
    }
    if *silent > 0 {
        parts.push(format!("{silent} sent without a reply, and counted there or not"));
    }
    parts.push(format!("{accepted} accepted"));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_counted_since_the_last_line_is_reported() {
        let mut shortfall = Shortfall::default();
        let mut counts = ForwardCounts { accepted: 7, ..ForwardCounts::default() };
        assert_eq!(shortfall.line("a:1", counts.clone()), None);
        (counts.dropped, counts.silent) = (4, 10);
        assert_eq!(
            shortfall.line("a:1", counts.clone()).unwrap(),
            "Forwarding to a:1 since the last report: 4 digests dropped and not sent, 10 sent without a reply, and \
             counted there or not, 0 accepted"
        );
        assert_eq!(shortfall.line("a:1", counts.clone()), None, "reported already");
        counts.refuse(401, 10);
        counts.refuse(7, 1);
        counts.accepted += 3;
        assert_eq!(
            shortfall.line("a:1", counts).unwrap(),
            "Forwarding to a:1 since the last report: 1 refused with an unknown code, 10 refused with code 401, 3 accepted"
        );
    }
}
