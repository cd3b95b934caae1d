//! Targets of log lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use crate::os::inherited::Inherited;

/// An open file or descriptor that lines are written to, without blocking.
#[derive(Debug)]
pub(super) enum SinkTarget {
    /// Opened by path, with `O_NONBLOCK`.
    File(File),
    /// Inherited by the process.
    Inherited(Inherited),
}

impl Write for SinkTarget {
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

impl SinkTarget {
    /// Whether both are the same descriptor, or the same file or pipe opened twice.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
        match (self, other) {
            (Self::File(this), Self::File(other)) => {
                identity(this).is_some_and(|this| identity(other) == Some(this))
            }
            (Self::Inherited(this), Self::Inherited(other)) => this.number() == other.number(),
            _ => false,
        }
    }

    /// Returns the descriptor that must stay open in a detach.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::File(file) => Some(file.as_raw_fd()),
            Self::Inherited(inherited) => inherited.duplicate_number(),
        }
    }
}
