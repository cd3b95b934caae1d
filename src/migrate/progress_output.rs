//! What a migration says while it goes on and at its end, on the standard output as the established
//! one, and on the standard error what went wrong.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::logging::EventText;

/// After how many records a line says so.
const STEP: u64 = 100_000;

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MigrationCounts {
    /// Keys of the source whose records the destination has accepted.
    pub(super) transferred: u64,
    /// Keys whose records could not be read or written.
    pub(super) failed: u64,
    /// Keys that are no digests.
    pub(super) skipped: u64,
    /// Records that are too old.
    pub(super) expired: u64,
    /// Keys deleted from the source.
    pub(super) deleted: u64,
    /// Keys of which a former run had transferred everything.
    pub(super) known: u64,
    /// Keys of which the destination does not have any more what was transferred before.
    pub(super) gone: u64,
    /// Keys left in the source, since they were changed again and again.
    pub(super) left: u64,
    /// Records that the destination cannot hold as they are.
    pub(super) clamped: u64,
    /// Records that were in the destination before.
    pub(super) met: u64,
}

/// Where a migration says how far it is.
pub(super) struct MigrationProgress {
    bar: ProgressBar,
    lines: bool,
    is_quiet: bool,
    begun: Instant,
    told: Mutex<u64>,
}

impl MigrationProgress {
    /// On a terminal a bar, else a line now and then, or nothing of both.
    pub(super) fn new(quiet: bool) -> Self {
        let has_bar = !quiet && io::stderr().is_terminal();
        let target = if has_bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{msg} {wide_bar} {human_pos} of {human_len} records, {rate} a second, {eta} left";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // The text of a bar that cannot be written is not missed.
            let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
        }));
        Self { bar, lines: !quiet && !has_bar, is_quiet: quiet, begun: Instant::now(), told: Mutex::new(0) }
    }

    /// Whether it helps to know how many records there will be.
    pub(super) fn wants_total(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Begins something with about so many records.
    pub(super) fn begin(&self, what: &'static str, total: Option<u64>) {
        self.bar.reset();
        self.bar.set_message(what);
        self.bar.set_length(total.unwrap_or_default());
    }

    /// So many more records have been looked at.
    pub(super) fn advance(&self, records: u64) {
        self.bar.inc(records);
        // What was estimated may be too little.
        if self.bar.length().is_some_and(|length| length < self.bar.position()) {
            self.bar.set_length(self.bar.position());
        }
    }

    /// Says how many records have been transferred, where no bar does.
    pub(super) fn transferred(&self, transferred: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        while self.lines && *told + STEP <= transferred {
            *told += STEP;
            self.say(&format_args!("{} records transferred...", *told));
        }
    }

    /// Ends the bar.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something on the standard output. That nobody listens is no reason to stop.
    pub(super) fn say(&self, text: &dyn fmt::Display) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stdout().lock(), "{text}");
        });
    }

    /// Says how long this has taken, and how many records a second that was, unless it is to be quiet.
    pub(super) fn say_rate(&self, records: u64) {
        if self.is_quiet {
            return;
        }
        let elapsed = self.begun.elapsed().as_secs_f64();
        let rate = HumanCount((records as f64 / elapsed.max(0.001)) as u64);
        self.say(&format_args!("{elapsed:.1} s, {rate} records a second"));
    }

    /// Names a record that could not be moved.
    pub(super) fn failed(&self, key: &[u8], why: &str) {
        self.say(&format_args!("Record {} failed: {why}", printable(key)));
    }
}

/// A key with everything but printable ASCII escaped.
fn printable(key: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    key.iter().map(printable).collect()
}

/// Says something on the standard error.
pub(super) fn complain(what: &str, text: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "pyzor-migrate: {what}: {text}");
}

/// Prints warnings of the engines as lines on the standard error.
pub(super) struct WarningPrinter {
    pub(super) quiet: bool,
}

impl<S: Subscriber> Layer<S> for WarningPrinter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let what = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO if !self.quiet => "note",
            _ => return,
        };
        // The libraries have their own idea of what is worth saying.
        if metadata.target().starts_with("pyzord") {
            let mut text = EventText::default();
            event.record(&mut text);
            complain(what, &text.text);
        }
    }
}
