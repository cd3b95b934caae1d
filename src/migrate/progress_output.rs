//! Output of a migration: progress, results and failed records on standard output, as in the Python program; errors and
//! warnings on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::logging::EventText;

/// Number of records after which a line reports progress.
const STEP: u64 = 100_000;

/// Numbers of keys or records, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MigrationCounts {
    /// Keys of the source whose records the destination has accepted.
    pub(super) transferred: u64,
    /// Keys whose records could not be read or written.
    pub(super) failed: u64,
    /// Keys that are not digests.
    pub(super) skipped: u64,
    /// Records older than `--cleanup-age`.
    pub(super) expired: u64,
    /// Keys deleted from the source.
    pub(super) deleted: u64,
    /// Keys that an earlier run had transferred completely.
    pub(super) known: u64,
    /// Keys that were transferred before and are no longer in the destination.
    pub(super) gone: u64,
    /// Keys left in the source because they kept changing or were not yet on the destination's disk.
    pub(super) left: u64,
    /// Records whose counts or times had to be limited to what the destination can hold.
    pub(super) clamped: u64,
    /// Records that the destination has before a dry run.
    pub(super) existing: u64,
}

/// The progress bar or progress lines, and standard output.
pub(super) struct MigrationProgress {
    bar: ProgressBar,
    lines: bool,
    is_quiet: bool,
    begun: Instant,
    /// Number of records in the last progress line.
    reported: Mutex<u64>,
}

impl MigrationProgress {
    /// Shows a bar on a terminal and lines otherwise; nothing if quiet.
    pub(super) fn new(quiet: bool) -> Self {
        let has_bar = !quiet && io::stderr().is_terminal();
        let target = if has_bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{msg} {wide_bar} {human_pos} of {human_len} records, {rate} a second, {eta} left";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // Only the bar is incomplete if this fails.
            let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
        }));
        Self {
            bar,
            lines: !quiet && !has_bar,
            is_quiet: quiet,
            begun: Instant::now(),
            reported: Mutex::new(0),
        }
    }

    /// Whether a bar is shown, which needs the number of records.
    pub(super) fn has_bar(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Begins a phase with about `total` records.
    pub(super) fn begin(&self, what: &'static str, total: Option<u64>) {
        self.bar.reset();
        self.bar.set_message(what);
        self.bar.set_length(total.unwrap_or_default());
    }

    /// Adds to the number of records that have been read.
    pub(super) fn advance(&self, records: u64) {
        self.bar.inc(records);
        // The estimate was too low.
        if self.bar.length().is_some_and(|length| length < self.bar.position()) {
            self.bar.set_length(self.bar.position());
        }
    }

    /// Prints a line for each 100,000 records that have been transferred, if there is no bar.
    pub(super) fn transferred(&self, transferred: u64) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        while self.lines && *reported + STEP <= transferred {
            *reported += STEP;
            self.print(&format_args!("{} records transferred...", *reported));
        }
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line on standard output. Ignores errors, so that a closed pipe does not stop the migration.
    pub(super) fn print(&self, text: &dyn fmt::Display) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stdout().lock(), "{text}");
        });
    }

    /// Prints the elapsed time and the number of records a second, unless quiet.
    pub(super) fn print_rate(&self, records: u64) {
        if self.is_quiet {
            return;
        }
        let elapsed = self.begun.elapsed().as_secs_f64();
        let rate = HumanCount((records as f64 / elapsed.max(0.001)) as u64);
        self.print(&format_args!("{elapsed:.1} s, {rate} records a second"));
    }

    /// Prints that a record could not be transferred.
    pub(super) fn print_failure(&self, key: &[u8], why: &str) {
        self.print(&format_args!("Record {} failed: {why}", printable(key)));
    }
}

/// Returns a key with every byte but printable ASCII escaped.
fn printable(key: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    key.iter().map(printable).collect()
}

/// Prints a line on standard error. `level` is `error`, `warning` or `note`.
pub(super) fn report(level: &str, text: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "pyzor-migrate: {level}: {text}");
}

/// Prints log events of the engines as lines on standard error.
pub(super) struct WarningPrinter {
    pub(super) quiet: bool,
}

impl<S: Subscriber> Layer<S> for WarningPrinter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO if !self.quiet => "note",
            _ => return,
        };
        // Events of libraries are not meant for operators.
        if metadata.target().starts_with("pyzord") {
            let mut text = EventText::default();
            event.record(&mut text);
            report(level, &text.text);
        }
    }
}
