//! A number of events in the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(60);
/// Events this close together are counted as one group, which bounds the memory.
const GROUP: Duration = Duration::from_secs(1);

/// Counts the events of the last minute, to the second.
#[derive(Debug, Default)]
pub(crate) struct LastMinute {
    groups: VecDeque<(Instant, u64)>,
}

impl LastMinute {
    /// Adds events at this time, which must not be before that of earlier ones.
    pub(crate) fn add(&mut self, events: u64, now: Instant) {
        while self.groups.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= PERIOD) {
            self.groups.pop_front();
        }
        match self.groups.back_mut() {
            Some((at, sum)) if now.saturating_duration_since(*at) < GROUP => *sum += events,
            _ => self.groups.push_back((now, events)),
        }
    }

    /// Returns the number of events in the minute before `now`.
    pub(crate) fn sum(&self, now: Instant) -> u64 {
        let recent = |at: Instant| now.saturating_duration_since(at) < PERIOD;
        self.groups.iter().filter(|(at, _)| recent(*at)).map(|(_, sum)| sum).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_forgotten_after_a_minute() {
        let start = Instant::now();
        let mut minute = LastMinute::default();
        for second in 0..200 {
            minute.add(1, start + Duration::from_secs(second));
            minute.add(1, start + Duration::from_secs(second));
        }
        let end = start + Duration::from_secs(199);
        assert_eq!(minute.sum(end), 120);
        assert!(minute.groups.len() <= 60);
        assert_eq!(minute.sum(end + Duration::from_secs(30)), 60);
        assert_eq!(minute.sum(end + PERIOD), 0);
    }
}
