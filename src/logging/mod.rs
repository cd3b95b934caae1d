//! The operator log and the usage log, in the line format of the Python server.
//!
//! The operator log takes the `tracing` events of this process. The usage log has one line per request; see
//! [`UsageLog`]. The server never waits for either: lines go into bounded queues, which are written by one thread per
//! destination, so that a terminal or pipe without a reader does not delay the files.

pub(crate) mod allowance;
mod line;
mod operator;
mod sink;
mod target;
mod thread;
mod usage;
mod writer;

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;

pub(crate) use usage::UsageLog;

pub(crate) use self::operator::EventText;
use self::operator::{OperatorLayer, OperatorLog};
use self::sink::Sink;
use self::target::SinkTarget;
use crate::os::inherited::{self, Inherited};
use crate::os::open;

/// The limits of the queues, in bytes. Usage lines arrive in thousands at a time.
const OPERATOR_BUFFER: usize = 1 << 20;
const USAGE_BUFFER: usize = 4 << 20;

const OPERATOR: &str = "log file";
const USAGE: &str = "usage log file";

/// A log file cannot be opened.
#[derive(Debug, Error)]
#[error("cannot open the {what} {}: {error}", path.display())]
pub(crate) struct LogOpenError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl LogOpenError {
    /// Whether the error stays until an operator changes the file.
    pub(crate) fn is_lasting(&self) -> bool {
        open::is_lasting(&self.error)
    }
}

/// The operator log and the usage log.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    operator: Arc<OperatorLog>,
    usage: Option<Arc<Sink>>,
    inherited: Arc<[Inherited]>,
}

/// Duplicates the inherited descriptors that the paths of the logs name. Must be called before the process opens
/// anything itself, since a new descriptor could take such a number.
///
/// # Errors
///
/// A descriptor is not open for writing.
pub(crate) fn inherit(operator: Option<&Path>, usage: Option<&Path>) -> Result<Vec<Inherited>, LogOpenError> {
    let named = |what, path: Option<&Path>| {
        let fail = |path: &Path, error| LogOpenError { what, path: path.to_owned(), error };
        path.and_then(|path| Inherited::named(path).map_err(|error| fail(path, error)).transpose())
            .transpose()
    };
    for (what, path) in [(OPERATOR, operator), (USAGE, usage)] {
        if let Some(path) = path {
            inherited::check_open(path).map_err(|error| LogOpenError {
                what,
                path: path.to_owned(),
                error,
            })?;
        }
    }
    let (operator, usage) = (named(OPERATOR, operator)?, named(USAGE, usage)?);
    Ok(operator.into_iter().chain(usage).collect())
}

/// Opens both logs for appending, and directs all `tracing` events of this process to the operator log. Until
/// [`Logs::serving`], lines are written directly: threads would not survive the detach, and a start that fails must
/// not leave its reason in a queue.
///
/// A path that names a descriptor must be among the inherited ones. `debug` adds debug events, and copies everything to
/// stderr.
///
/// # Errors
///
/// A file cannot be opened.
pub(crate) fn open(
    operator: Option<&Path>,
    usage: Option<&Path>,
    debug: bool,
    inherited: Vec<Inherited>,
) -> Result<Logs, LogOpenError> {
    let sink = |what, path: Option<&Path>, limit| {
        let made = |path| Ok(Arc::new(Sink::new(what, Some(path), target(what, path, &inherited)?, limit)));
        path.map(made).transpose()
    };
    let file = sink(OPERATOR, operator, OPERATOR_BUFFER)?;
    let usage = sink(USAGE, usage, USAGE_BUFFER)?;
    let operator = Arc::new(OperatorLog::new(file, debug));
    let logs = Logs { operator, usage, inherited: inherited.into() };
    let subscriber = tracing_subscriber::registry().with(OperatorLayer(Arc::clone(&logs.operator)));
    // Fails only for a second call in one process, in which case the first subscriber stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(logs)
}

fn target(what: &'static str, path: &Path, inherited: &[Inherited]) -> Result<SinkTarget, LogOpenError> {
    let target = match inherited::number_of(path) {
        None => open::to_append(path).map(SinkTarget::File),
        // A number that is not inherited may belong to another file by now, the database for example.
        Some(number) => [Inherited::STDOUT, Inherited::STDERR]
            .iter()
            .chain(inherited)
            .find(|inherited| inherited.number() == number)
            .map(|inherited| SinkTarget::Inherited(inherited.clone()))
            .ok_or_else(|| {
                io::Error::other(format!(
                    "descriptor {number} was not the destination of a log when pyzord was started: restart pyzord"
                ))
            }),
    };
    target.map_err(|error| LogOpenError { what, path: path.to_owned(), error })
}

impl Logs {
    /// Returns the descriptors of the open files, which must stay open in a detach.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        self.files().filter_map(|sink| sink.descriptor()).collect()
    }

    /// Switches to normal operation after a start: threads write the lines, so that no caller waits for a destination,
    /// and warnings go to stderr only if there is no log file.
    pub(crate) fn serving(&self) {
        self.files().for_each(Sink::start);
        self.operator.serving();
    }

    /// Creates the usage log of a server loop.
    pub(crate) fn usage(&self) -> UsageLog {
        let stderr = self.operator.debugging().then(|| Arc::clone(&self.operator));
        UsageLog::new(self.usage.iter().cloned().collect(), stderr)
    }

    /// Whether there is a file to reopen.
    pub(crate) fn has_files(&self) -> bool {
        self.files().next().is_some()
    }

    /// Reopens the files, which may have been renamed by a log rotation. If one cannot be opened, the old one stays in
    /// use. Returns the errors.
    pub(crate) fn reopen(&self) -> Vec<LogOpenError> {
        let mut errors = Vec::new();
        for sink in self.files() {
            let Some(path) = sink.path() else { continue };
            match target(sink.what(), path, &self.inherited) {
                Ok(target) => sink.replace(target),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Flushes the queues and ends the threads. Waits at most this long for destinations that do not take the lines.
    pub(crate) fn close(&self, patience: Duration) {
        let start = Instant::now();
        let stderr = self.operator.stderr();
        let sinks: Vec<&Sink> = self.files().chain(std::iter::once(&*stderr)).collect();
        // The operator log last, because the other sinks report their problems to it.
        let (operators, others): (Vec<&Sink>, Vec<&Sink>) = sinks
            .into_iter()
            .partition(|sink| self.operator.file().is_some_and(|file| std::ptr::eq(*sink, file)));
        for (sinks, deadline) in [(others, start + patience / 2), (operators, start + patience)] {
            sinks.iter().for_each(|sink| sink.close());
            sinks.iter().for_each(|sink| sink.wait(deadline));
        }
    }

    fn files(&self) -> impl Iterator<Item = &Sink> {
        self.operator.file().into_iter().chain(self.usage.as_deref())
    }
}

#[cfg(test)]
mod tests;
