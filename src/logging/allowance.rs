//! Rate limit for log lines that strangers or a broken database can cause.

use std::time::{Duration, Instant};

/// A number of lines per minute. Further lines are withheld and counted.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_minute: u32,
    used: u32,
    since: Option<Instant>,
    withheld: u64,
}

impl Allowance {
    const PERIOD: Duration = Duration::from_secs(60);

    /// Allows this many lines per minute.
    pub(crate) const fn per_minute(lines: u32) -> Self {
        Self { per_minute: lines, used: 0, since: None, withheld: 0 }
    }

    /// Takes one line. Returns `None` if it must be withheld, or else the number of lines withheld since the last one
    /// that was written.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Self::PERIOD) {
            self.since = Some(now);
            self.used = 0;
        }
        if self.used == self.per_minute {
            self.withheld += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// Returns the number of withheld lines as a suffix of the next line; empty for zero.
pub(crate) fn withheld_note(withheld: u64) -> String {
    if withheld == 0 { String::new() } else { format!(" (and {withheld} more such lines withheld)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withheld_lines_are_counted_and_reported_with_the_next_line() {
        let mut allowance = Allowance::per_minute(2);
        let start = Instant::now();
        let answers: Vec<_> = (0..5).map(|_| allowance.take(start)).collect();
        assert_eq!(answers, [Some(0), Some(0), None, None, None]);
        assert_eq!(allowance.take(start + Duration::from_secs(60)), Some(3));
    }
}
