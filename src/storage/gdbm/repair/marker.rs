//! A file beside the database that is there while it is open.
//!
//! A process that is killed in the middle of a change can leave a file that looks sound and is not: with a
//! bucket that the directory does not name yet, or with room on the list of free blocks that is in use. A
//! process that is killed between two changes leaves a sound file, since the library has written all of a
//! change when it returns. So the marker says whether a change is under way, in a byte that is mapped into
//! memory: what a killed process has put there is in the file.
//!
//! It also says which file it is about and of which boot of the machine: after a crash of the machine some of
//! the file may not have reached the disk, and a copy may have been made in the middle of a change.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use super::marker_page::{LENGTH, MarkerPage};
use crate::os::{boot, open};
use crate::storage::gdbm::file::location::DatabasePath;

/// Where the byte is that says whether a change is under way, and the one that says whether a repair is owed.
const CHANGE: usize = "change: ".len();
const OWED: usize = "change: 0\nowed: ".len();
const NO: u8 = b'0';
const YES: u8 = b'1';

const TEXT: &str = "\npyzord has the database open, or was killed while it had. It removes this file when it closes the database. A \
                    start that finds it repairs the database, unless no change was under way (change: 0), no repair is owed \
                    (owed: 0), and the rest is the same as then.\n";

/// What a process that had the database open has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkerState {
    /// No marker: it has closed the database.
    Nothing,
    /// It was killed between two changes.
    Sound,
    /// It was killed in a change.
    Half,
    /// A repair is owed, or the marker is not about this file and this boot, or not to be read.
    Doubtful,
}

/// The marker of one database.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    /// Device and inode of what was put there.
    file: Option<(u64, u64)>,
    flag: Arc<ChangeFlag>,
}

/// Whether a change is under way, and whether a repair is owed.
#[derive(Debug, Default)]
pub(crate) struct ChangeFlag {
    page: Option<MarkerPage>,
    needs_repair: AtomicBool,
}

impl ChangeFlag {
    /// To be called before each change.
    pub(crate) fn begin(&self) {
        self.set(CHANGE, YES);
    }

    /// To be called when it has been made.
    pub(crate) fn end(&self) {
        if !self.needs_repair() {
            self.set(CHANGE, NO);
        }
    }

    /// From now on the file is to be repaired by a later start.
    pub(crate) fn require_repair(&self) {
        self.needs_repair.store(true, Ordering::Relaxed);
        self.set(OWED, YES);
        self.set(CHANGE, YES);
    }

    /// Whether that is so.
    pub(crate) fn needs_repair(&self) -> bool {
        self.needs_repair.load(Ordering::Relaxed)
    }

    fn set(&self, place: usize, value: u8) {
        if let Some(page) = &self.page {
            // A kill comes between two instructions, so that only the compiler must not change the order of
            // this and of what the library writes.
            page.byte(place).store(value, Ordering::SeqCst);
        }
    }
}

impl Marker {
    /// The marker of the database at this place, before it is open.
    pub(crate) fn of(place: &DatabasePath) -> Self {
        Self { path: place.beside(".open"), file: None, flag: Arc::default() }
    }

    /// Its name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether changes are under way.
    pub(crate) fn flag(&self) -> &Arc<ChangeFlag> {
        &self.flag
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// What it says of this file.
    pub(crate) fn left(&self, database: &File) -> MarkerState {
        if !self.is_there() {
            return MarkerState::Nothing;
        }
        let read = || {
            let mut text = Vec::new();
            let file = open::to_read(&self.path)?;
            file.take(LENGTH as u64 + 1).read_to_end(&mut text)?;
            io::Result::Ok((text, page_of(database, NO, NO)?, page_of(database, YES, NO)?))
        };
        match read() {
            _ if boot::id().is_empty() => MarkerState::Doubtful,
            Ok((text, sound, _)) if text == sound => MarkerState::Sound,
            Ok((text, _, half)) if text == half => MarkerState::Half,
            _ => MarkerState::Doubtful,
        }
    }

    /// Puts a new one there for this file, of which a repair may still be owed. Where that fails, changes are made without
    /// it.
    pub(crate) fn set(&mut self, database: &File, needs_repair: bool) -> io::Result<()> {
        self.flag = Arc::new(ChangeFlag { page: None, needs_repair: AtomicBool::new(needs_repair) });
        let owed = if needs_repair { YES } else { NO };
        let page = page_of(database, owed, owed)?;
        // One of its own: the old one may still be that of a server whose database was moved away.
        let file = self.replace(&page).or_else(|_| self.overwrite(&page))?;
        let metadata = file.metadata()?;
        self.file = Some((metadata.dev(), metadata.ino()));
        match MarkerPage::map(&file) {
            Ok(page) => {
                self.flag =
                    Arc::new(ChangeFlag { page: Some(page), needs_repair: AtomicBool::new(needs_repair) });
                Ok(())
            }
            Err(error) => {
                // Nothing notes the end of a change, so that one counts as under way all the time.
                file.write_all_at(&page_of(database, YES, owed)?, 0)?;
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

    /// Without room or rights for a new one. A link could lead the text into any file.
    fn overwrite(&self, page: &[u8]) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file =
            options.read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(open::not_regular());
        }
        // Whole, so that a kill leaves either this or what was there.
        file.write_all_at(page, 0)?;
        file.set_len(LENGTH as u64)?;
        Ok(file)
    }

    /// Waits until it has reached the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Removes it, unless another one has taken the place of what was put there.
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

/// The whole content of a marker.
fn page_of(database: &File, change: u8, owed: u8) -> io::Result<Vec<u8>> {
    let metadata = database.metadata()?;
    // Inodes are used again at once, so that a copy may have the number of a file that was removed.
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
