//! Writing whole lines to a destination that may take a part of them, or none.

use std::io::{self, Write};
use std::time::Duration;

use tracing::{error, warn};

use super::target::SinkTarget;

/// How long the writer waits for a pipe that is full, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// What to do about a pipe that is full.
pub(super) enum FullPipe {
    /// Try it again.
    Again,
    /// Write to this.
    Instead(SinkTarget),
    /// Do without.
    Lost,
}

/// Writes lines whole, as far as the destination lets it.
#[derive(Debug)]
pub(super) struct LineWriter {
    pub(super) target: SinkTarget,
    /// The name of the destination, for people.
    pub(super) name: String,
    /// Whether the last line was cut off in the middle.
    torn: bool,
    failing: bool,
    lost: u64,
}

impl LineWriter {
    /// A writer to a destination of this name.
    pub(super) fn new(target: SinkTarget, name: String) -> Self {
        Self { target, name, torn: false, failing: false, lost: 0 }
    }

    pub(super) fn write_and_report(&mut self, lines: &[u8], full: &mut dyn FnMut(Duration) -> FullPipe) {
        if !lines.is_empty() {
            let outcome = self.write(lines, full);
            self.report(outcome);
        }
    }

    pub(super) fn write(
        &mut self,
        lines: &[u8],
        full: &mut dyn FnMut(Duration) -> FullPipe,
    ) -> io::Result<()> {
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
                    FullPipe::Again => pause = (pause * 2).min(LONGEST_PAUSE),
                    FullPipe::Instead(target) => {
                        at = self.turn_to(target, lines, at);
                        pause = FIRST_PAUSE;
                    }
                    FullPipe::Lost => return self.lose_from(lines, at, error),
                },
                Err(error) => return self.lose_from(lines, at, error),
            }
        }
        Ok(())
    }

    /// Writes to this from now on. Says whether that is another one, in which no line has begun.
    pub(super) fn replace(&mut self, target: SinkTarget) -> bool {
        let is_other = !self.target.is_same(&target);
        self.target = target;
        self.torn &= !is_other;
        is_other
    }

    /// Goes on at another target with the next whole line; returns where that begins.
    fn turn_to(&mut self, target: SinkTarget, lines: &[u8], at: usize) -> usize {
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

    /// Reports when writing begins to fail, and when it works again.
    fn report(&mut self, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !self.failing => {
                self.failing = true;
                error!(
                    "cannot write to the {}: {error}; its lines are lost until that works again",
                    self.name
                );
            }
            // Some may have been lost before it could be reported.
            Ok(()) if self.failing || self.lost > 0 => {
                self.failing = false;
                warn!("the {} can be written again; {} lines were lost", self.name, self.lost);
                self.lost = 0;
            }
            _ => {}
        }
    }
}

pub(super) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
