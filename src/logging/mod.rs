//! The two logs, in the line format that operators' tools know.
//!
//! The operator's log says what happens to the daemon, through `tracing`. The usage log has a
//! line a request; see [`UsageLog`]. Neither ever makes the server wait: lines go into bounded
//! buffers, which threads of their own write, one for each destination, so that a terminal or
//! pipe that has no reader does not keep the files from being written.

pub(crate) mod allowance;
mod line;
mod operator;
mod sink;
mod target;
mod usage;
mod writer;

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::error;
use tracing_subscriber::layer::SubscriberExt;

pub(crate) use usage::UsageLog;

pub(crate) use self::operator::EventText;
use self::operator::{OperatorLayer, OperatorLog};
use self::sink::Sink;
use self::target::SinkTarget;
use crate::os::inherited::{self, Inherited};
use crate::os::open;

/// How much may wait to be written to a destination, in bytes. The usage log's lines come in
/// thousands at a time.
const OPERATOR_BUFFER: usize = 1 << 20;
const USAGE_BUFFER: usize = 4 << 20;

const OPERATOR: &str = "log file";
const USAGE: &str = "usage log file";

/// A log file that cannot be had.
#[derive(Debug, Error)]
#[error("cannot open the {what} {}: {error}", path.display())]
pub(crate) struct LogOpenError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Both logs.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    operator: Arc<OperatorLog>,
    usage: Option<Arc<Sink>>,
    inherited: Arc<[Inherited]>,
}

/// Takes the descriptors that the paths of logs mean. To be called before the process has opened anything
/// itself, whose number a path could have.
///
/// # Errors
///
/// One that is not open for writing.
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

/// Opens both logs, for appending, and makes the operator's the destination of all `tracing`
/// events of this process. Until [`Logs::serving`], lines are written at once: there may be no
/// thread before the daemon has gone into the background, and a start that fails must not leave
/// its reason behind in a buffer.
///
/// A path that means a descriptor of the process's start needs it among the inherited ones.
///
/// `debug` lowers the operator's log to debug and sends everything to stderr as well.
///
/// # Errors
///
/// A file that cannot be opened.
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
    // Only a second call in one process could find another one, and then that one serves.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(logs)
}

fn target(what: &'static str, path: &Path, inherited: &[Inherited]) -> Result<SinkTarget, LogOpenError> {
    let target = match inherited::number_of(path) {
        None => open::to_append(path).map(SinkTarget::File),
        // The number may belong to something else by now, the database for instance.
        Some(number) => [Inherited::STDOUT, Inherited::STDERR]
            .iter()
            .chain(inherited)
            .find(|inherited| inherited.number() == number)
            .map(|inherited| SinkTarget::Inherited(inherited.clone()))
            .ok_or_else(|| {
                io::Error::other(format!(
                    "descriptor {number} was not the destination of a log when pyzord was started: restart it"
                ))
            }),
    };
    target.map_err(|error| LogOpenError { what, path: path.to_owned(), error })
}

impl Logs {
    /// The descriptors of the open files, which must survive going into the background.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        self.files().filter_map(|sink| sink.descriptor()).collect()
    }

    /// Says that the daemon has started. From now on threads write the lines, so that no caller waits
    /// for a destination, and stderr gets warnings only if there is no log file.
    pub(crate) fn serving(&self) {
        self.files().for_each(Sink::start);
        self.operator.serving();
    }

    /// The usage log, for the one who serves requests.
    pub(crate) fn usage(&self) -> UsageLog {
        let stderr = self.operator.debugging().then(|| self.operator.stderr());
        UsageLog::new(self.usage.iter().cloned().chain(stderr).collect())
    }

    /// Opens the files again, since they may have been moved away. One that cannot be opened
    /// stays as it is.
    pub(crate) fn reopen(&self) {
        for sink in self.files() {
            let Some(path) = sink.path() else { continue };
            match target(sink.what(), path, &self.inherited) {
                Ok(target) => sink.replace(target),
                Err(error) => error!("{error}; the old one is written on"),
            }
        }
    }

    /// Writes what is left and ends the threads, but waits no longer than this for a destination
    /// that does not take it.
    pub(crate) fn close(&self, patience: Duration) {
        let start = Instant::now();
        let stderr = self.operator.stderr();
        let sinks: Vec<&Sink> = self.files().chain(std::iter::once(&*stderr)).collect();
        // What the others have to say of themselves comes to the operator's log.
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
