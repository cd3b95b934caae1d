//! Progress lines on standard error during a run.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::figures::{decimal, grouped};
use super::measurement::Measurement;
use super::options::{LoadOptions, nanoseconds};

/// The default interval on a terminal.
const PERIOD: Duration = Duration::from_secs(1);

/// The form of progress output.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgressOutput {
    /// The time between lines in nanoseconds; `None`: no progress.
    pub(super) interval: Option<u64>,
    /// Whether each line overwrites the previous one, and the last line is erased.
    is_in_place: bool,
}

impl ProgressOutput {
    /// Chooses a line per interval if `--interval` is given, otherwise a single line if standard error is a terminal.
    pub(super) fn new(options: &LoadOptions) -> Self {
        let is_in_place = options.interval.is_none() && !options.json && io::stderr().is_terminal();
        let interval = options.interval.or(is_in_place.then_some(PERIOD)).map(nanoseconds);
        Self { interval, is_in_place }
    }

    /// Starts the progress of a run with this name.
    pub(super) fn line(self, name: String) -> ProgressLine {
        ProgressLine { name, style: self, before: (0, 0), has_line: false }
    }
}

/// The progress of a run.
#[derive(Debug)]
pub(super) struct ProgressLine {
    name: String,
    style: ProgressOutput,
    /// The time and the number of replies of the line before.
    before: (u64, u64),
    has_line: bool,
}

impl ProgressLine {
    /// Prints the progress; `now` is in nanoseconds since the start of the run.
    pub(super) fn show(&mut self, now: u64, measurement: &Measurement) {
        // The count of replies restarts at 0 after the warm-up.
        let replies = measurement.arrived.checked_sub(self.before.1).unwrap_or(measurement.arrived);
        let rate = replies as f64 * 1e9 / (now - self.before.0).max(1) as f64;
        self.before = (now, measurement.arrived);
        let failed = measurement.answered() - measurement.succeeded;
        let line = format!(
            "{} {:>8} s {:>11} replies/s, {} failed, {} lost",
            self.name,
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
    /// Erases the line.
    fn drop(&mut self) {
        if self.has_line {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
