//! The log lines on digests that other servers have not counted.

use std::collections::BTreeMap;

use crate::stats::{ForwardCounts, OTHER_CODE};

/// Describes what each server has not counted since the last report.
#[derive(Debug, Default)]
pub(super) struct ShortfallLog(BTreeMap<String, ForwardCounts>);

impl ShortfallLog {
    /// Returns a line for each server that has not counted everything since the last call.
    pub(super) fn lines(&mut self, counts: BTreeMap<String, ForwardCounts>) -> Vec<String> {
        let before = std::mem::replace(&mut self.0, counts);
        let since =
            self.0.iter().map(|(server, now)| (server, before.get(server).map(|then| now.since(then))));
        since
            .map(|(server, period)| (server, period.unwrap_or_else(|| self.0[server].clone())))
            .filter(|(_, period)| period.undelivered() > 0)
            .map(|(server, period)| {
                format!("Forwarding to {server} since the last report: {}", outcomes(&period))
            })
            .collect()
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
    fn servers_that_have_counted_everything_have_no_line() {
        let mut log = ShortfallLog::default();
        let mut counts = BTreeMap::new();
        counts.insert("a:1".to_owned(), ForwardCounts { accepted: 7, ..ForwardCounts::default() });
        counts.insert("b:1".to_owned(), ForwardCounts { dropped: 4, silent: 10, ..ForwardCounts::default() });
        assert_eq!(
            log.lines(counts.clone()),
            [
                "Forwarding to b:1 since the last report: 4 digests dropped and not sent, 10 sent without a reply, and \
                 counted there or not, 0 accepted"
            ]
        );
        assert!(log.lines(counts.clone()).is_empty(), "reported already");
        let of_a = counts.get_mut("a:1").unwrap();
        of_a.refuse(401, 10);
        of_a.refuse(7, 1);
        of_a.accepted += 3;
        assert_eq!(
            log.lines(counts),
            [
                "Forwarding to a:1 since the last report: 1 refused with an unknown code, 10 refused with code 401, \
                 3 accepted"
            ]
        );
        assert!(log.lines(BTreeMap::new()).is_empty());
    }
}
