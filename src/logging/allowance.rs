//! How many log lines of a kind may be written, where strangers or a broken database cause them.

use std::time::{Duration, Instant};

/// A number of lines per minute; further ones are counted and not written.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_minute: u32,
    used: u32,
    since: Option<Instant>,
    withheld: u64,
}

impl Allowance {
    const PERIOD: Duration = Duration::from_secs(60);

    /// Allows this many lines a minute.
    pub(crate) const fn per_minute(lines: u32) -> Self {
        Self { per_minute: lines, used: 0, since: None, withheld: 0 }
    }

    /// Whether one more line may be written at this moment, and how many were withheld since the
    /// last one that was written.
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

/// How many lines were withheld, as the end of the next one.
pub(crate) fn withheld_note(withheld: u64) -> String {
    if withheld == 0 { String::new() } else { format!(" (and {withheld} more such lines withheld)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_allowance_are_counted_and_reported_with_the_next_one() {
        let mut allowance = Allowance::per_minute(2);
        let start = Instant::now();
        let answers: Vec<_> = (0..5).map(|_| allowance.take(start)).collect();
        assert_eq!(answers, [Some(0), Some(0), None, None, None]);
        assert_eq!(allowance.take(start + Duration::from_secs(60)), Some(3));
    }
}
