//! The thread that writes the queue of a sink.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::sink::{Replacement, SinkQueue, SinkShared, SinkState};
use super::target::SinkTarget;
use super::writer::LineWriter;

/// The pause after a write in which lines gather, so that the thread is not woken for each.
const GATHERING: Duration = Duration::from_millis(10);
/// The time between two reports of dropped lines while a pipe is full.
const REMINDER: Duration = Duration::from_secs(60);
/// The first and the longest pause before a full pipe is retried.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// The state of a writer thread.
pub(super) struct WriterThread {
    shared: Arc<SinkShared>,
    writer: LineWriter,
    /// The target that takes over behind the lines being written.
    next_target: Option<SinkTarget>,
    /// The time of the last report of dropped lines while the pipe was full.
    reported: Option<Instant>,
}

impl WriterThread {
    pub(super) fn new(shared: Arc<SinkShared>, writer: LineWriter) -> Self {
        Self { shared, writer, next_target: None, reported: None }
    }

    /// Writes until the sink is closed and its queue is empty.
    pub(super) fn run(mut self) {
        let mut batch = SinkQueue::default();
        while !batch.is_closing {
            self.take_batch(&mut batch);
            self.write_batch(&mut batch);
            if !batch.is_closing {
                thread::sleep(GATHERING);
            }
        }
        // Lines that came since, a report of dropped lines for example. Failures could no longer be reported.
        if let SinkState::Queued(queue) = &mut *self.shared.lock() {
            std::mem::swap(&mut batch.lines, &mut queue.lines);
        }
        let _ = self.write(&batch.lines);
        self.shared.end();
    }

    /// Waits for work and moves it from the queue to the batch. The buffer of the last batch becomes the queue's.
    fn take_batch(&self, batch: &mut SinkQueue) {
        batch.lines.clear();
        let mut state = self.shared.lock();
        while let SinkState::Queued(queue) = &mut *state {
            if queue.has_work() {
                let lines = std::mem::take(&mut batch.lines);
                *batch = std::mem::replace(
                    queue,
                    SinkQueue { lines, is_closing: queue.is_closing, ..SinkQueue::default() },
                );
                return;
            }
            queue.is_idle = true;
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_batch(&mut self, batch: &mut SinkQueue) {
        let (target, position) =
            batch.replacement.take().map(|Replacement { target, position }| (target, position)).unzip();
        self.next_target = target;
        let (before, after) = batch.lines.split_at(position.unwrap_or(batch.lines.len()));
        self.write_and_report(before);
        if batch.dropped > 0 {
            warn!(
                "cannot write to the {} fast enough: {} lines dropped in total",
                self.writer.name, batch.dropped
            );
        }
        if let Some(target) = self.next_target.take() {
            self.writer.replace(target, &[]);
        }
        self.write_and_report(after);
    }

    fn write_and_report(&mut self, lines: &[u8]) {
        if !lines.is_empty() {
            let outcome = self.write(lines);
            self.writer.report(outcome);
        }
    }

    /// Writes lines, and waits while a pipe is full.
    fn write(&mut self, mut lines: &[u8]) -> io::Result<()> {
        let mut pause = FIRST_PAUSE;
        while !lines.is_empty() {
            match self.writer.write(lines) {
                Ok(written) => (lines, pause) = (&lines[written..], FIRST_PAUSE),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.wait(pause) {
                    Some(target) => (lines, pause) = (self.writer.replace(target, lines), FIRST_PAUSE),
                    None => pause = (pause * 2).min(LONGEST_PAUSE),
                },
                Err(error) => {
                    self.writer.give_up(lines);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Waits before a full pipe is retried. Returns the target to write to instead, if there is one.
    fn wait(&mut self, pause: Duration) -> Option<SinkTarget> {
        let mut state = self.shared.lock();
        if self.next_target.is_none()
            && !matches!(&*state, SinkState::Queued(queue) if queue.replacement.is_some())
        {
            state = self.shared.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        let SinkState::Queued(queue) = &mut *state else { return None };
        if let Some(newest) = queue.replacement.take() {
            self.next_target = None;
            return Some(newest.target);
        }
        if self.next_target.is_some() {
            return self.next_target.take();
        }
        let dropped = queue.dropped;
        if dropped > 0 && self.reported.is_none_or(|reported| reported.elapsed() >= REMINDER) {
            self.reported = Some(Instant::now());
            // The counter is not reset: this line may be dropped itself, and the total is reported when the pipe has
            // room.
            drop(state);
            warn!(
                "cannot write to the {} (the pipe is full): {dropped} lines dropped so far",
                self.writer.name
            );
        }
        None
    }
}
