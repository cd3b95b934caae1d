//! Mending a damaged file on purpose: what `pyzord --recover` does.
//!
//! Works on a copy. What the library can read of it stays; then everything that looks like a record
//! and is not among that is taken from the file as it was. The copy takes the place of the file, and
//! the file as it was is kept under another name.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Whence, lseek64};

use super::codec::Stored;
use super::explain::holder;
use super::handle::{GdbmError, Handle};
use super::marker::Marker;
use super::open::Open;
use super::recovery::{has_room_beside, put_back};
use crate::storage::OpenError;

/// What a mending brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// How many records the mended file has.
    pub records: u64,
    /// How many of them the library did not find.
    pub from_remains: usize,
    /// How many records and buckets the library could not read.
    pub unreadable: usize,
    /// Why the library could make nothing of the file, if so.
    pub given_up: Option<String>,
    /// The file as it was.
    pub kept: PathBuf,
}

/// Mends the file; see above. No process may have it open. Records that have not changed for `age` are
/// not taken from remains, since they may have been deleted for that. Dates are of `zone`.
///
/// # Errors
///
/// One line that names the file and says what to do. The file is as it was then.
pub fn mend(path: &Path, age: Option<Duration>, zone: TimeZone) -> Result<Mended, OpenError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        OpenError::new(format!(
            "the database {} cannot be recovered: {what}: {error}; it is as it was",
            path.display()
        ))
    };
    super::check_kind(path)?;
    let original = match File::open(path) {
        Ok(file) => lock(path, file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::absent(format!("there is no database {}", path.display())));
        }
        Err(error) => return Err(failed("it cannot be opened", &error)),
    };
    match has_room_beside(path) {
        Ok(true) => {}
        Ok(false) => {
            return Err(failed(
                "there is no room",
                &"its disk has no room for a copy of it, or the limit of file sizes (ulimit -f, LimitFSIZE) forbids one",
            ));
        }
        Err(error) => return Err(failed("its disk cannot be asked for room", &error)),
    }
    let copy = beside(path, "recovering");
    let outcome = mend_copy(&original, path, &copy, age, zone);
    let (mut mended, new) = match outcome {
        Ok(done) => done,
        Err(error) => {
            // Of use to nobody.
            let _ = fs::remove_file(&copy);
            return Err(failed("its copy could not be mended", &error));
        }
    };
    mended.kept = replace(&original, &new, path, &copy).map_err(|error| {
        failed(&format!("the mended copy {} cannot take its place", copy.display()), &error)
    })?;
    // A start that finds it would repair what has been repaired.
    let _ = Marker::of(path).clear();
    Ok(mended)
}

/// Keeps every server away, which has a lock of the same kind.
fn lock(path: &Path, file: File) -> Result<Flock<File>, OpenError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            let who =
                holder(path).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            OpenError::busy(format!("the database {} is in use by {who}: stop that first", path.display()))
        }
        error => OpenError::new(format!("the database {} cannot be locked: {error}", path.display())),
    })
}

fn mend_copy(
    original: &File,
    path: &Path,
    copy: &Path,
    age: Option<Duration>,
    zone: TimeZone,
) -> Result<(Mended, File), Box<dyn std::error::Error>> {
    // What an interrupted attempt has left is this one's, since the file is locked.
    match fs::remove_file(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy)?;
    let end = copy_data(original, &made)?;
    drop(made);
    let mut mended =
        Mended { records: 0, from_remains: 0, unreadable: 0, given_up: None, kept: PathBuf::new() };
    let handle = match recover(copy) {
        Ok((handle, unreadable)) => {
            mended.unreadable = unreadable;
            handle
        }
        Err(error) => {
            mended.given_up = Some(error.to_string());
            fs::remove_file(copy)?;
            Handle::open(copy)?
        }
    };
    let (mut open, file) = Open::new(handle, zone)?;
    mended.unreadable += remove_unreadable(&mut open)?;
    let mut remains = File::open(path)?.take(end);
    mended.from_remains = put_back(&mut open, copy, &mut remains, age.map(super::horizon))?;
    mended.records = open.handle.count()?;
    open.handle.close()?;
    file.sync_all()?;
    Ok((mended, file))
}

/// Has the library write the copy anew; says how much it could not read.
fn recover(copy: &Path) -> Result<(Handle, usize), GdbmError> {
    let mut handle = Handle::open(copy)?;
    let recovered = handle.recover()?;
    // The copy of a copy.
    let _ = fs::remove_file(&recovered.backup);
    Ok((handle, recovered.failures))
}

/// Removes what no server could read: the library takes for a record whatever is where one should be.
/// Says how many there were.
fn remove_unreadable(open: &mut Open) -> Result<usize, GdbmError> {
    let (mut key, mut unreadable) = (Vec::new(), Vec::new());
    let mut is_there = open.handle.first_key(&mut key)?;
    while is_there {
        if !open.handle.fetch(&key, &mut open.value)? || Stored::decode(&open.value).is_none() {
            unreadable.push(key.clone());
        }
        is_there = open.handle.next_key(&mut key)?;
    }
    for key in &unreadable {
        open.handle.delete(key)?;
    }
    Ok(unreadable.len())
}

/// Copies a file without what is a hole in it: a killed server leaves one of a gibibyte. Says where the
/// last of what is no hole ends.
fn copy_data(mut from: &File, mut to: &File) -> io::Result<u64> {
    let length = from.metadata()?.len();
    let mut at = 0;
    while let Ok(data) = lseek64(from, at, Whence::SeekData) {
        let end = lseek64(from, data, Whence::SeekHole)?;
        let (start, size) = (data.unsigned_abs(), end.saturating_sub(data).unsigned_abs());
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        if io::copy(&mut from.take(size), &mut to)? == 0 {
            break;
        }
        at = end;
    }
    to.set_len(length)?;
    to.flush()?;
    Ok(at.unsigned_abs())
}

/// Puts the mended copy in the place of the file, with its owner and mode, and says under which name the
/// file as it was is kept.
fn replace(original: &File, new: &File, path: &Path, copy: &Path) -> io::Result<PathBuf> {
    let metadata = original.metadata()?;
    fchown(new, Some(metadata.uid()), Some(metadata.gid()))?;
    new.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    let stamp = Zoned::now().strftime("broken-%Y%m%d-%H%M%S").to_string();
    let mut kept = beside(path, &stamp);
    let mut number = 1;
    // A second name for the file: it is under one of them whatever happens.
    while let Err(error) = fs::hard_link(path, &kept) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            // A file system without links.
            fs::rename(path, &kept)?;
            break;
        }
        number += 1;
        kept = beside(path, &format!("{stamp}-{number}"));
    }
    fs::rename(copy, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(kept)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}
