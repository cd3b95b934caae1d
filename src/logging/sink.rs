//! One destination of log lines: a bounded buffer and the thread that writes it.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::target::SinkTarget;
use super::writer::{FullPipe, LineWriter, count_lines};

/// How long the thread lets lines gather after a write, so that it is not woken for each.
const GATHERING: Duration = Duration::from_millis(10);
/// How often it reports dropped lines while it waits.
const REMINDER: Duration = Duration::from_secs(60);

/// A destination of lines.
#[derive(Debug)]
pub(super) struct Sink {
    what: &'static str,
    path: Option<PathBuf>,
    limit: usize,
    queue: Arc<SinkQueue>,
}

/// What a sink shares with the thread that writes.
#[derive(Debug, Default)]
struct SinkQueue {
    state: Mutex<SinkState>,
    wake: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SinkState {
    pending: Vec<u8>,
    /// Lines that found no room.
    dropped: u64,
    /// The writer, while no thread has it.
    writer: Option<LineWriter>,
    threaded: bool,
    /// Whether the thread waits to be woken.
    idle: bool,
    closing: bool,
    ended: bool,
    /// What comes after the current target, and how much of what waits is still for that.
    replacement: Option<(SinkTarget, usize)>,
}

impl Sink {
    /// A destination that may have `limit` bytes waiting. Until it is started, every line is
    /// written at once.
    pub(super) fn new(what: &'static str, path: Option<&Path>, target: SinkTarget, limit: usize) -> Self {
        let name = path.map_or_else(|| what.to_owned(), |path| format!("{what} {}", path.display()));
        let writer = LineWriter::new(target, name);
        let state = SinkState { writer: Some(writer), ..SinkState::default() };
        let queue = SinkQueue { state: Mutex::new(state), ..SinkQueue::default() };
        Self { what, path: path.map(Path::to_owned), limit, queue: Arc::new(queue) }
    }

    /// What it is, for people.
    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    /// The name that it was opened by.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Its descriptor, before it is started.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.lock().writer.as_ref().and_then(|writer| writer.target.descriptor())
    }

    /// Adds whole lines. Never waits for a destination once the sink is started.
    pub(super) fn append(&self, lines: &[u8]) {
        let mut state = self.lock();
        if let Some(writer) = &mut state.writer {
            // No failure can be reported yet, and a start waits for no full pipe.
            let _ = writer.write(lines, &mut |_| FullPipe::Lost);
            return;
        }
        if state.pending.len() + lines.len() > self.limit {
            state.dropped += count_lines(lines);
            return;
        }
        state.pending.extend_from_slice(lines);
        if std::mem::take(&mut state.idle) {
            self.queue.wake.notify_one();
        }
    }

    /// Starts the thread that writes. If there can be none, lines are still written at once.
    pub(super) fn start(&self) {
        let mut state = self.lock();
        let Some(writer) = state.writer.take() else { return };
        let queue = Arc::clone(&self.queue);
        // The closure would take the writer along if there is no thread to run it.
        let slot = Arc::new(Mutex::new(Some(writer)));
        let given = Arc::clone(&slot);
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            if let Some(writer) = lock(&given).take() {
                queue.write_until_closed(writer);
            }
        });
        match thread {
            Ok(_) => state.threaded = true,
            Err(error) => {
                let writer = lock(&slot).take();
                let name = writer.as_ref().map_or_else(|| self.what.to_owned(), |writer| writer.name.clone());
                state.writer = writer;
                drop(state);
                warn!("there is no thread for the {name}: {error}; its lines are written at once");
            }
        }
    }

    /// Writes to this from now on, behind what waits already.
    pub(super) fn replace(&self, target: SinkTarget) {
        let mut state = self.lock();
        match &mut state.writer {
            Some(writer) => {
                writer.replace(target);
            }
            None => state.replacement = Some((target, state.pending.len())),
        }
        self.queue.wake.notify_one();
    }

    /// Lets the thread end when it has written everything.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.queue.wake.notify_one();
    }

    /// Waits for that, until the deadline.
    pub(super) fn wait(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.threaded && !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.queue.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, SinkState> {
        lock(&self.queue.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SinkQueue {
    fn write_until_closed(&self, mut writer: LineWriter) {
        let mut lines = Vec::new();
        let name = writer.name.clone();
        let mut reported = None;
        loop {
            let mut state = lock(&self.state);
            while state.pending.is_empty()
                && state.dropped == 0
                && state.replacement.is_none()
                && !state.closing
            {
                state.idle = true;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle = false;
            lines.clear();
            std::mem::swap(&mut lines, &mut state.pending);
            let dropped = std::mem::take(&mut state.dropped);
            let replacement = state.replacement.take();
            let closing = state.closing;
            drop(state);

            let (mut replacement, until) = replacement.unzip();
            let (before, after) = lines.split_at(until.unwrap_or(lines.len()));
            writer.write_and_report(before, &mut |pause| {
                self.wait(pause, &mut replacement, &name, &mut reported)
            });
            if dropped > 0 {
                warn!("{dropped} lines for the {} were dropped, since it was too slow", writer.name);
            }
            if let Some(target) = replacement.take() {
                writer.replace(target);
            }
            writer.write_and_report(after, &mut |pause| self.wait(pause, &mut None, &name, &mut reported));
            if closing {
                break;
            }
            thread::sleep(GATHERING);
        }
        // What came in between, a line about dropped ones for instance.
        let rest = std::mem::take(&mut lock(&self.state).pending);
        if !rest.is_empty() {
            let _ = writer.write(&rest, &mut |pause| self.wait(pause, &mut None, &name, &mut reported));
        }
        lock(&self.state).ended = true;
        self.ended.notify_all();
    }

    /// Waits so long for a pipe that is full, unless there is another target for what it does not take:
    /// the newest one, or this.
    fn wait(
        &self,
        pause: Duration,
        target: &mut Option<SinkTarget>,
        name: &str,
        reported: &mut Option<Instant>,
    ) -> FullPipe {
        let mut state = lock(&self.state);
        if state.replacement.is_none() && target.is_none() {
            state = self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some((newest, _)) = state.replacement.take() {
            *target = None;
            return FullPipe::Instead(newest);
        }
        if let Some(target) = target.take() {
            return FullPipe::Instead(target);
        }
        if state.dropped > 0 && reported.is_none_or(|reported| reported.elapsed() >= REMINDER) {
            *reported = Some(Instant::now());
            // Counted on: where this line finds no room itself, the whole number is reported later.
            let dropped = state.dropped;
            drop(state);
            warn!("the {name} takes no lines; {dropped} were dropped so far");
        }
        FullPipe::Again
    }
}
