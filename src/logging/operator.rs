//! The operator log: `tracing` events as lines for the log file and stderr.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::OPERATOR_BUFFER;
use super::line::{LineStamp, push_printable};
use super::sink::Sink;
use super::target::SinkTarget;
use crate::os::inherited::{self, Inherited};
use crate::os::journal::{self, Priority};
use crate::record::Timestamp;

/// The destinations of the operator log.
#[derive(Debug)]
pub(super) struct OperatorLog {
    file: Option<Arc<Sink>>,
    stderr: Arc<Sink>,
    debug: bool,
    serving: AtomicBool,
    /// Whether stderr leads to the journal.
    has_journal: AtomicBool,
    /// Whether the log file is the journal, too, so that it has all lines already.
    is_journal: bool,
    stamp: Mutex<LineStamp>,
}

impl OperatorLog {
    /// Creates the log with this file, if any.
    pub(super) fn new(file: Option<Arc<Sink>>, debug: bool) -> Self {
        let number = file.as_ref().and_then(|file| inherited::number_of(file.path()?));
        let is_journal = match number {
            Some(1) => journal::has(&std::io::stdout()),
            Some(2) => journal::has_stderr(),
            _ => false,
        };
        Self {
            file,
            has_journal: AtomicBool::new(journal::has_stderr()),
            is_journal,
            stderr: Arc::new(Sink::new(
                "stderr",
                None,
                SinkTarget::Inherited(Inherited::STDERR),
                OPERATOR_BUFFER,
            )),
            debug,
            serving: AtomicBool::new(false),
            stamp: Mutex::new(LineStamp::here()),
        }
    }

    pub(super) fn file(&self) -> Option<&Sink> {
        self.file.as_deref()
    }

    pub(super) fn stderr(&self) -> Arc<Sink> {
        Arc::clone(&self.stderr)
    }

    pub(super) fn debugging(&self) -> bool {
        self.debug
    }

    pub(super) fn serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
        // A detach has redirected stderr.
        self.has_journal.store(journal::has_stderr(), Ordering::Relaxed);
        self.stderr.start();
    }

    /// Copies whole lines of the usage log to stderr.
    pub(super) fn copy_usage(&self, lines: &[u8]) {
        if !self.has_journal() {
            return self.stderr.append(lines);
        }
        let mut prefixed = Vec::with_capacity(lines.len() * 2);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            prefixed.extend_from_slice(Priority::Debug.prefix().as_bytes());
            prefixed.extend_from_slice(line);
        }
        self.stderr.append(&prefixed);
    }

    fn has_journal(&self) -> bool {
        self.has_journal.load(Ordering::Relaxed)
    }

    fn write(&self, level: Level, text: &EventText) {
        let (name, priority) = match level {
            _ if text.critical => ("CRITICAL", Priority::Critical),
            Level::ERROR => ("ERROR", Priority::Error),
            Level::WARN => ("WARNING", Priority::Warning),
            Level::INFO => ("INFO", Priority::Info),
            _ => ("DEBUG", Priority::Debug),
        };
        let mut line = Vec::new();
        {
            let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            if stamp.process() != std::process::id() {
                // The process has forked.
                *stamp = LineStamp::here();
            }
            stamp.push(&mut line, Timestamp::now(), name);
        }
        push_printable(&mut line, &text.text);
        line.push(b'\n');
        if let Some(file) = &self.file {
            file.append(&line);
        }
        let serving = self.serving.load(Ordering::Relaxed);
        let is_serious = level <= Level::WARN;
        if self.has_journal() {
            let is_due = self.debug
                || text.critical
                || is_serious && !serving
                || text.lifecycle && !self.is_journal
                || self.file.is_none();
            if is_due {
                // Without date and process, which the journal adds.
                let mut line = priority.prefix().as_bytes().to_vec();
                push_printable(&mut line, &text.text);
                line.push(b'\n');
                self.stderr.append(&line);
            }
        } else if self.debug || serving && (text.critical || is_serious && self.file.is_none()) {
            self.stderr.append(&line);
        } else if !serving && is_serious {
            // For the operator at the terminal, without the date.
            let mut line = format!("pyzord: {}: ", name.to_lowercase()).into_bytes();
            push_printable(&mut line, &text.text);
            line.push(b'\n');
            self.stderr.append(&line);
        }
    }
}

/// The `tracing` layer that turns events into lines.
pub(super) struct OperatorLayer(pub(super) Arc<OperatorLog>);

impl<S: Subscriber> Layer<S> for OperatorLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Events of libraries are of no use to operators.
        metadata.target().starts_with("pyzord") && *metadata.level() <= self.level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level()))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = EventText::default();
        event.record(&mut text);
        self.0.write(*event.metadata().level(), &text);
    }
}

impl OperatorLayer {
    fn level(&self) -> Level {
        if self.0.debug { Level::DEBUG } else { Level::INFO }
    }
}

/// The message of an event, followed by its fields.
#[derive(Default)]
pub(crate) struct EventText {
    pub(crate) text: String,
    critical: bool,
    /// Whether it is a line of the start, the stop or a reload.
    lifecycle: bool,
}

impl Visit for EventText {
    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "critical" => self.critical = value,
            "lifecycle" => self.lifecycle = value,
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string cannot fail.
        if field.name() == "message" {
            let fields = std::mem::take(&mut self.text);
            let _ = write!(self.text, "{value:?}{fields}");
        } else {
            let _ = write!(self.text, " {}={value:?}", field.name());
        }
    }
}
