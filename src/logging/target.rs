//! Where log lines are written to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use crate::os::inherited::Inherited;

/// Where lines go.
#[derive(Debug)]
pub(super) enum SinkTarget {
    /// A file, or what has a file's name; a pipe that is full is an error rather than a wait.
    File(File),
    /// A descriptor of the process's start, of which the same holds.
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
    /// Whether both are one descriptor, or one file or pipe, opened twice.
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

    /// The descriptor that must survive going into the background.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::File(file) => Some(file.as_raw_fd()),
            Self::Inherited(inherited) => inherited.kept(),
        }
    }
}
