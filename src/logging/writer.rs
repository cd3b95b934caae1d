//! Writing whole lines to a target that may take a part of them, or none.

use std::io::{self, Write};

use tracing::{error, warn};

use super::target::SinkTarget;

/// Writes lines to a target and keeps them whole.
#[derive(Debug)]
pub(super) struct LineWriter {
    pub(super) target: SinkTarget,
    /// The name of the destination, for messages.
    pub(super) name: String,
    position: Position,
    is_failing: bool,
    /// The number of lines lost, wholly or in part, since the last report.
    lost: u64,
}

/// The position in the target's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    LineStart,
    /// The remainder of the line must follow.
    InLine,
    /// The remainder of the line was dropped: a newline must follow.
    Torn,
}

impl LineWriter {
    /// Creates a writer to a destination of this name.
    pub(super) fn new(target: SinkTarget, name: String) -> Self {
        Self { target, name, position: Position::LineStart, is_failing: false, lost: 0 }
    }

    /// Writes as much of the lines as the target takes, and returns the number of bytes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the target is a full pipe, or another error of the write.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.position == Position::Torn {
            self.write_some(b"\n")?;
        }
        self.write_some(lines)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.target.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let is_at_end = bytes[written - 1] == b'\n';
                    self.position = if is_at_end { Position::LineStart } else { Position::InLine };
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes lines without waiting. Lines that the target does not take are lost, and reported with the next
    /// [`LineWriter::report`].
    pub(super) fn write_at_once(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            match self.write(lines) {
                Ok(written) => lines = &lines[written..],
                Err(_) => return self.give_up(lines),
            }
        }
    }

    /// Counts these lines as lost. The first one may have been written in part.
    pub(super) fn give_up(&mut self, lines: &[u8]) {
        self.lost += count_lines(lines);
        if self.position == Position::InLine {
            self.position = Position::Torn;
        }
    }

    /// Writes to another target from now on. Returns the lines to continue with: the remainder of a partly written line
    /// is lost, unless both targets are the same file.
    pub(super) fn replace<'a>(&mut self, target: SinkTarget, lines: &'a [u8]) -> &'a [u8] {
        let is_same = self.target.is_same(&target);
        self.target = target;
        if is_same {
            return lines;
        }
        let position = std::mem::replace(&mut self.position, Position::LineStart);
        if position != Position::InLine {
            return lines;
        }
        self.lost += 1;
        let end = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1);
        &lines[end..]
    }

    /// Reports when writing begins to fail, and when it works again.
    pub(super) fn report(&mut self, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                error!(
                    "cannot write to the {}: {error}; its lines are lost until writing works again",
                    self.name
                );
            }
            // Lines may also have been lost before they could be reported.
            Ok(()) if self.is_failing || self.lost > 0 => {
                self.is_failing = false;
                warn!("the {} is writable again; {} lines were lost", self.name, self.lost);
                self.lost = 0;
            }
            _ => {}
        }
    }
}

pub(super) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
