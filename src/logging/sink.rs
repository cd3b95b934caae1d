//! One destination of log lines: a bounded buffer and the thread that writes it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::os::inherited::Inherited;

/// How long the thread lets lines gather after a write, so that it is not woken for each.
const GATHERING: Duration = Duration::from_millis(10);
/// How long it waits for a pipe that is full, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);
/// How often it tells of dropped lines while it waits.
const REMINDER: Duration = Duration::from_secs(60);

/// Where lines go.
#[derive(Debug)]
pub(super) enum Target {
    /// A file, or what has a file's name; a pipe that is full is an error rather than a wait.
    File(File),
    /// A descriptor of the process's start, of which the same holds.
    Inherited(Inherited),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Inherited(inherited) => inherited.write_now(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A destination of lines.
#[derive(Debug)]
pub(super) struct Sink {
    what: &'static str,
    path: Option<PathBuf>,
    limit: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    /// Lines that found no room.
    dropped: u64,
    /// The writer, while no thread has it.
    writer: Option<Writer>,
    threaded: bool,
    /// Whether the thread waits to be woken.
    idle: bool,
    closing: bool,
    ended: bool,
    /// What comes after the current target, and how much of what waits is still for that.
    replacement: Option<(Target, usize)>,
}

impl Sink {
    /// A destination that may have `limit` bytes waiting. Until it is started, every line is
    /// written at once.
    pub(super) fn new(what: &'static str, path: Option<&Path>, target: Target, limit: usize) -> Self {
        let name = path.map_or_else(|| what.to_owned(), |path| format!("{what} {}", path.display()));
        let writer = Writer { target, name, torn: false, failing: false, lost: 0 };
        let state = State { writer: Some(writer), ..State::default() };
        let shared = Shared { state: Mutex::new(state), ..Shared::default() };
        Self { what, path: path.map(Path::to_owned), limit, shared: Arc::new(shared) }
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
            // There is nobody yet to whom a failure could be told, and nobody waits for a full pipe.
            let _ = writer.write(lines, &mut |_| Full::Lost);
            return;
        }
        if state.pending.len() + lines.len() > self.limit {
            state.dropped += count_lines(lines);
            return;
        }
        state.pending.extend_from_slice(lines);
        if std::mem::take(&mut state.idle) {
            self.shared.wake.notify_one();
        }
    }

    /// Starts the thread that writes. If there can be none, lines are still written at once.
    pub(super) fn start(&self) {
        let mut state = self.lock();
        let Some(writer) = state.writer.take() else { return };
        let shared = Arc::clone(&self.shared);
        // The closure would take the writer along if there is no thread to run it.
        let slot = Arc::new(Mutex::new(Some(writer)));
        let given = Arc::clone(&slot);
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            if let Some(writer) = lock(&given).take() {
                shared.write_until_closed(writer);
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
    pub(super) fn replace(&self, target: Target) {
        let mut state = self.lock();
        match &mut state.writer {
            Some(writer) => {
                writer.replace(target);
            }
            None => state.replacement = Some((target, state.pending.len())),
        }
        self.shared.wake.notify_one();
    }

    /// Lets the thread end when it has written everything.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.shared.wake.notify_one();
    }

    /// Waits for that, until the deadline.
    pub(super) fn wait(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.threaded && !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn write_until_closed(&self, mut writer: Writer) {
        let mut lines = Vec::new();
        let name = writer.name.clone();
        let mut told = None;
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
            writer.write_and_tell(before, &mut |pause| self.wait(pause, &mut replacement, &name, &mut told));
            if dropped > 0 {
                warn!("{dropped} lines for the {} were dropped, since it was too slow", writer.name);
            }
            if let Some(target) = replacement.take() {
                writer.replace(target);
            }
            writer.write_and_tell(after, &mut |pause| self.wait(pause, &mut None, &name, &mut told));
            if closing {
                break;
            }
            thread::sleep(GATHERING);
        }
        // What came in between, a line about dropped ones for instance.
        let rest = std::mem::take(&mut lock(&self.state).pending);
        if !rest.is_empty() {
            let _ = writer.write(&rest, &mut |pause| self.wait(pause, &mut None, &name, &mut told));
        }
        lock(&self.state).ended = true;
        self.ended.notify_all();
    }

    /// Waits so long for a pipe that is full, unless there is another target for what it does not take:
    /// the newest one, or this.
    fn wait(
        &self,
        pause: Duration,
        target: &mut Option<Target>,
        name: &str,
        told: &mut Option<Instant>,
    ) -> Full {
        let mut state = lock(&self.state);
        if state.replacement.is_none() && target.is_none() {
            state = self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some((newest, _)) = state.replacement.take() {
            *target = None;
            return Full::Instead(newest);
        }
        if let Some(target) = target.take() {
            return Full::Instead(target);
        }
        if state.dropped > 0 && told.is_none_or(|told| told.elapsed() >= REMINDER) {
            *told = Some(Instant::now());
            // Counted on: where this line finds no room itself, the whole number is told later.
            let dropped = state.dropped;
            drop(state);
            warn!("the {name} takes no lines; {dropped} were dropped so far");
        }
        Full::Again
    }
}

/// What to do about a pipe that is full.
enum Full {
    /// Try it again.
    Again,
    /// Write to this.
    Instead(Target),
    /// Do without.
    Lost,
}

/// Writes lines whole, as far as the destination lets it.
#[derive(Debug)]
struct Writer {
    target: Target,
    name: String,
    /// Whether the last line was cut off in the middle.
    torn: bool,
    failing: bool,
    lost: u64,
}

impl Writer {
    fn write_and_tell(&mut self, lines: &[u8], full: &mut dyn FnMut(Duration) -> Full) {
        if !lines.is_empty() {
            let outcome = self.write(lines, full);
            self.tell(outcome);
        }
    }

    fn write(&mut self, lines: &[u8], full: &mut dyn FnMut(Duration) -> Full) -> io::Result<()> {
        let (mut at, mut pause) = (0, FIRST_PAUSE);
        while at < lines.len() {
            // Whatever comes next must not look like the rest of a line that was cut off.
            let bytes = if self.torn { b"\n" } else { &lines[at..] };
            match self.target.write(bytes) {
                Ok(0) => return self.lose_from(lines, at, io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    pause = FIRST_PAUSE;
                    at += if std::mem::take(&mut self.torn) { 0 } else { written };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match full(pause) {
                    Full::Again => pause = (pause * 2).min(LONGEST_PAUSE),
                    Full::Instead(target) => {
                        at = self.turn_to(target, lines, at);
                        pause = FIRST_PAUSE;
                    }
                    Full::Lost => return self.lose_from(lines, at, error),
                },
                Err(error) => return self.lose_from(lines, at, error),
            }
        }
        Ok(())
    }

    /// Writes to this from now on. Says whether that is another one, in which no line has begun.
    fn replace(&mut self, target: Target) -> bool {
        let is_other = !self.target.is_same(&target);
        self.target = target;
        self.torn &= !is_other;
        is_other
    }

    /// Goes on at another target with the next whole line; returns where that begins.
    fn turn_to(&mut self, target: Target, lines: &[u8], at: usize) -> usize {
        if !self.replace(target) || at == 0 || lines[at - 1] == b'\n' {
            return at;
        }
        self.lost += 1;
        lines[at..].iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| at + end + 1)
    }

    fn lose_from(&mut self, lines: &[u8], at: usize, error: io::Error) -> io::Result<()> {
        self.torn |= at > 0 && lines[at - 1] != b'\n';
        self.lose(&lines[at..], error)
    }

    fn lose(&mut self, lines: &[u8], error: io::Error) -> io::Result<()> {
        self.lost += count_lines(lines);
        Err(error)
    }

    /// Tells the operator when writing begins to fail, and when it works again.
    fn tell(&mut self, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !self.failing => {
                self.failing = true;
                error!(
                    "cannot write to the {}: {error}; its lines are lost until that works again",
                    self.name
                );
            }
            // Some may have been lost before there was anybody to tell.
            Ok(()) if self.failing || self.lost > 0 => {
                self.failing = false;
                warn!("the {} can be written again; {} lines were lost", self.name, self.lost);
                self.lost = 0;
            }
            _ => {}
        }
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
