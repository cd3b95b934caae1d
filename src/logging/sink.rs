//! A destination of log lines: written directly at first, later through a bounded queue and a thread.
//!
//! ```text
//!            start()               close(), queue written
//!   Direct ───────────▶ Queued ───────────────────────────▶ Ended
//!   append() writes     append() queues or drops            append() drops
//! ```
//!
//! [`super::thread`] has the thread. If it cannot be started, the sink stays in `Direct`.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use tracing::warn;

use super::target::SinkTarget;
use super::thread::WriterThread;
use super::writer::{LineWriter, count_lines};

/// A destination of lines.
#[derive(Debug)]
pub(super) struct Sink {
    what: &'static str,
    path: Option<PathBuf>,
    /// The maximum number of queued bytes.
    limit: usize,
    shared: Arc<SinkShared>,
}

/// State shared between a sink and its writer thread.
#[derive(Debug)]
pub(super) struct SinkShared {
    state: Mutex<SinkState>,
    /// Wakes the thread.
    pub(super) wake: Condvar,
    ended: Condvar,
}

#[derive(Debug)]
pub(super) enum SinkState {
    /// No thread: every line is written at once.
    Direct(LineWriter),
    /// The thread writes the queue.
    Queued(SinkQueue),
    /// The thread has ended.
    Ended,
}

/// The work for the writer thread.
#[derive(Debug, Default)]
pub(super) struct SinkQueue {
    pub(super) lines: Vec<u8>,
    /// The number of lines that did not fit.
    pub(super) dropped: u64,
    pub(super) replacement: Option<Replacement>,
    pub(super) is_closing: bool,
    /// Whether the thread waits to be woken.
    pub(super) is_idle: bool,
}

/// A new target, which takes over within the queue.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) target: SinkTarget,
    /// The number of queued bytes that are still for the old target.
    pub(super) position: usize,
}

impl SinkQueue {
    pub(super) fn has_work(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0 || self.replacement.is_some() || self.is_closing
    }
}

impl SinkShared {
    pub(super) fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the queue. Lines from now on are dropped.
    pub(super) fn end(&self) {
        *self.lock() = SinkState::Ended;
        self.ended.notify_all();
    }
}

impl Sink {
    /// Creates a sink that writes directly. Later it queues up to `limit` bytes.
    pub(super) fn new(what: &'static str, path: Option<&Path>, target: SinkTarget, limit: usize) -> Self {
        let name = path.map_or_else(|| what.to_owned(), |path| format!("{what} {}", path.display()));
        let state = Mutex::new(SinkState::Direct(LineWriter::new(target, name)));
        let shared = SinkShared { state, wake: Condvar::new(), ended: Condvar::new() };
        Self { what, path: path.map(Path::to_owned), limit, shared: Arc::new(shared) }
    }

    /// Returns the kind of destination, for messages.
    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    /// Returns the path that it was opened by.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns its descriptor, unless a thread has it already.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match &*self.shared.lock() {
            SinkState::Direct(writer) => writer.target.descriptor(),
            _ => None,
        }
    }

    /// Adds whole lines. Once the sink is started, this never waits for the destination: lines that do not fit into
    /// the queue are dropped.
    pub(super) fn append(&self, lines: &[u8]) {
        match &mut *self.shared.lock() {
            SinkState::Direct(writer) => writer.write_at_once(lines),
            SinkState::Queued(queue) if queue.lines.len() + lines.len() > self.limit => {
                queue.dropped += count_lines(lines);
            }
            SinkState::Queued(queue) => {
                queue.lines.extend_from_slice(lines);
                if std::mem::take(&mut queue.is_idle) {
                    self.shared.wake.notify_one();
                }
            }
            SinkState::Ended => {}
        }
    }

    /// Starts the writer thread. If that fails, lines are still written directly.
    pub(super) fn start(&self) {
        let mut state = self.shared.lock();
        let SinkState::Direct(writer) = &*state else { return };
        let name = writer.name.clone();
        // The thread gets the writer once it exists, so that a failure to start it loses no writer.
        let (give, given) = mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || {
            if let Ok(writer) = given.recv() {
                WriterThread::new(shared, writer).run();
            }
        });
        if let Err(error) = started {
            drop(state);
            warn!("cannot start a thread for the {name}: {error}; its lines are written at once");
            return;
        }
        if let SinkState::Direct(writer) =
            std::mem::replace(&mut *state, SinkState::Queued(SinkQueue::default()))
        {
            // The thread waits for it.
            let _ = give.send(writer);
        }
    }

    /// Writes to this target from now on. Lines that are queued already still go to the old one.
    pub(super) fn replace(&self, target: SinkTarget) {
        match &mut *self.shared.lock() {
            SinkState::Direct(writer) => {
                writer.replace(target, &[]);
            }
            SinkState::Queued(queue) => {
                queue.replacement = Some(Replacement { target, position: queue.lines.len() });
                self.shared.wake.notify_one();
            }
            SinkState::Ended => {}
        }
    }

    /// Ends the thread once it has written the queue.
    pub(super) fn close(&self) {
        if let SinkState::Queued(queue) = &mut *self.shared.lock() {
            queue.is_closing = true;
            self.shared.wake.notify_one();
        }
    }

    /// Waits until the thread has ended, or the deadline.
    pub(super) fn wait(&self, deadline: Instant) {
        let mut state = self.shared.lock();
        while matches!(*state, SinkState::Queued(_)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
