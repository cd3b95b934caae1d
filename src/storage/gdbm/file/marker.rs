//! The marker: a file `NAME.open` beside the database that exists while a process has the database open.
//!
//! **Which write makes a report durable.** The library changes the file through a shared mapping, so a change is in the
//! kernel's page cache when the library call returns. The report is answered after that, and from then on survives any
//! end of the process. A crash of the machine can lose it until the next fsync (every 60 s, and at close).
//!
//! **What a kill leaves.** One change takes several writes, the header last. A process killed *between* two changes
//! leaves a sound file. A process killed *within* one can leave a file that looks sound and is not: a bucket that the
//! directory does not name yet, or a block that is both in use and on the list of free blocks. The marker distinguishes
//! the two: a byte of it, mapped into memory, is set before each change and cleared after it ([`ChangeFlag`]).
//!
//! **When the marker is trusted.** It names the database file (device, inode, time of creation) and the boot of the
//! machine. For another file, such as a copy made in the middle of a change, or after a crash of the machine, which may
//! keep some pages and lose others, the change byte proves nothing and the database is repaired.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::change_flag::{ChangeFlag, NO, YES};
use super::location::DatabasePath;
use super::marker_page::{LENGTH, MarkerPage};
use crate::os::{boot, open};

/// The explanation inside the marker. It is part of the file format: a start compares the whole page, so after a change
/// of this text every marker of an earlier version would cost a repair.
const TEXT: &str = "\npyzord has the database open, or was killed while it had. It removes this file when it closes \
                    the database. A start that finds it repairs the database, unless no change was under way (change: \
                    0), no repair is owed (owed: 0), and the rest is the same as then.\n";

/// The state in which the last process that had the database open left it, according to the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkerState {
    /// There is no marker: the database was closed.
    Absent,
    /// The process was killed between two changes.
    BetweenChanges,
    /// The process was killed within a change.
    WithinChange,
    /// A repair is owed, or the marker is unreadable, or about another file or boot.
    Doubtful,
}

/// The marker of one database.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    /// Device and inode of the marker that this process has created.
    file: Option<(u64, u64)>,
    flag: Arc<ChangeFlag>,
}

impl Marker {
    /// Returns the marker of a database. Nothing is created before [`Marker::set`].
    pub(crate) fn of(location: &DatabasePath) -> Self {
        Self { path: location.beside(".open"), file: None, flag: Arc::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the flag that every change of the database must set and clear.
    pub(crate) fn flag(&self) -> &Arc<ChangeFlag> {
        &self.flag
    }

    /// Returns whether a marker exists, of whatever kind of file.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Returns the state of this database file according to the marker.
    pub(crate) fn state(&self, database: &File) -> MarkerState {
        if !self.exists() {
            return MarkerState::Absent;
        }
        let read = || {
            let mut text = Vec::new();
            let file = open::to_read(&self.path)?;
            file.take(LENGTH as u64 + 1).read_to_end(&mut text)?;
            io::Result::Ok((text, marker_text(database, NO, NO)?, marker_text(database, YES, NO)?))
        };
        match read() {
            _ if boot::id().is_empty() => MarkerState::Doubtful,
            Ok((text, between, _)) if text == between => MarkerState::BetweenChanges,
            Ok((text, _, within)) if text == within => MarkerState::WithinChange,
            _ => MarkerState::Doubtful,
        }
    }

    /// Creates a new marker for this database file, which may still need a repair. If that fails, changes are not
    /// recorded: the caller must report the consequence of a kill to the operator.
    pub(crate) fn set(&mut self, database: &File, needs_repair: bool) -> io::Result<()> {
        self.flag = Arc::new(ChangeFlag::new(None, needs_repair));
        let owed = if needs_repair { YES } else { NO };
        let page = marker_text(database, owed, owed)?;
        // A new file, not the old one overwritten: a server whose database was moved away may still map the old one.
        let file = self.replace(&page).or_else(|_| self.overwrite(&page))?;
        let metadata = file.metadata()?;
        self.file = Some((metadata.dev(), metadata.ino()));
        match MarkerPage::map(&file) {
            Ok(page) => {
                self.flag = Arc::new(ChangeFlag::new(Some(page), needs_repair));
                Ok(())
            }
            Err(error) => {
                // The end of a change cannot be recorded: every kill must count as one within a change.
                file.write_all_at(&marker_text(database, YES, owed)?, 0)?;
                Err(error)
            }
        }
    }

    fn replace(&self, page: &[u8]) -> io::Result<File> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        match file.write_all_at(page, 0).and_then(|()| fs::rename(&new, &self.path)) {
            Ok(()) => Ok(file),
            Err(error) => {
                fs::remove_file(&new)?;
                Err(error)
            }
        }
    }

    /// Overwrites the marker, for lack of room or rights for a new one. Never follows a link, which could name any
    /// file.
    fn overwrite(&self, page: &[u8]) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file =
            options.read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(open::not_regular());
        }
        // In one write, so that a kill leaves either the old or the new text.
        file.write_all_at(page, 0)?;
        file.set_len(LENGTH as u64)?;
        Ok(file)
    }

    /// Writes the marker to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Removes the marker, unless another process has replaced it by its own.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let there = fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        if self.file.is_some_and(|own| there.is_ok_and(|there| there != own)) {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns the whole content of a marker.
fn marker_text(database: &File, change: u8, owed: u8) -> io::Result<Vec<u8>> {
    let metadata = database.metadata()?;
    // The time of creation, because a copy can get the inode number of a file that was just removed.
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let head = format!(
        "change: {}\nowed: {}\nboot: {}\ndevice: {}\ninode: {}\nmade: {}\n",
        char::from(change),
        char::from(owed),
        boot::id(),
        metadata.dev(),
        metadata.ino(),
        made.map_or(0, |made| made.as_nanos())
    );
    let mut page = (head + TEXT).into_bytes();
    page.resize(LENGTH, b'\n');
    Ok(page)
}
