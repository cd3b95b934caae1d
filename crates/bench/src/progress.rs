//! What is said on the standard error while load goes on.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::figures::{decimal, grouped};
use super::measurement::Measurement;
use super::options::{LoadOptions, nanoseconds};

/// How often a line on a terminal is written anew.
const PERIOD: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgressOutput {
    /// After how many nanoseconds each time; none: never.
    pub(super) interval: Option<u64>,
    /// Whether there is one line that is written again and again, so that the outcome has the screen to itself.
    is_in_place: bool,
}

impl ProgressOutput {
    /// A line an interval, if one is asked for; otherwise one line in all on a terminal.
    pub(super) fn new(options: &LoadOptions) -> Self {
        let is_in_place = options.interval.is_none() && !options.json && io::stderr().is_terminal();
        let interval = options.interval.or(is_in_place.then_some(PERIOD)).map(nanoseconds);
        Self { interval, is_in_place }
    }

    /// Tells how a run of this name goes.
    pub(super) fn line(self, what: String) -> ProgressLine {
        ProgressLine { what, style: self, before: (0, 0), has_line: false }
    }
}

/// Tells how a run goes.
#[derive(Debug)]
pub(super) struct ProgressLine {
    what: String,
    style: ProgressOutput,
    /// Time and replies when it last did.
    before: (u64, u64),
    has_line: bool,
}

impl ProgressLine {
    /// Says what has been counted so many nanoseconds after the beginning.
    pub(super) fn tell(&mut self, now: u64, measurement: &Measurement) {
        // Replies are counted from 0 again after the warm-up.
        let replies = measurement.arrived.checked_sub(self.before.1).unwrap_or(measurement.arrived);
        let rate = replies as f64 * 1e9 / (now - self.before.0).max(1) as f64;
        self.before = (now, measurement.arrived);
        let failed = measurement.answered() - measurement.succeeded;
        let line = format!(
            "{} {:>8} s {:>11} replies/s, {} failed, {} lost",
            self.what,
            decimal(now as f64 / 1e9, 1),
            decimal(rate, 0),
            grouped(failed),
            grouped(measurement.lost)
        );
        let (begin, end) = if self.style.is_in_place { ("\r", "\x1b[K") } else { ("", "\n") };
        let _ = write!(io::stderr(), "{begin}{line}{end}");
        self.has_line = self.style.is_in_place;
    }
}

impl Drop for ProgressLine {
    /// Takes the line away.
    fn drop(&mut self) {
        if self.has_line {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
