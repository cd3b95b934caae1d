//! The origin of the requests that a server forwards, which lasts over restarts in a file of the homedir.
//!
//! A homedir may be copied to another machine, and two servers with one origin would take each other's reports for their
//! own. The file therefore also names its place: a hash of the machine, its host name and the file's own inode. The host
//! name is needed because a copied disk has the same machine id and inodes, and two containers may share an image. A file
//! at another place is a copy and gets a new origin. That is harmless where the place changed for another reason: only
//! requests of the old origin that are still on their way are not recognized any more.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::utsname::uname;
use nix::unistd::{AccessFlags, access};
use sha1::{Digest as _, Sha1};
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::os::open;
use pyzor_wire::digest::{Digest, HEX_LEN, hex};
use pyzor_wire::forward_id::ForwardOrigin;

/// The name of the file in the homedir.
const FILE: &str = "pyzord.origin";
/// The start of temporary names.
const TEMPORARY: &str = ".pyzord.origin-";
/// The file that identifies the machine: see machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";
/// The most bytes of the file that are read. The contents are shorter.
const LONGEST: u64 = 1000;
/// How often a file that another process changes at the same time is read again.
const ATTEMPTS: usize = 10;
/// The longest wait for the lock on the homedir, and the pause between two attempts.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The origin, and what an operator should know about it.
#[derive(Debug)]
pub(crate) struct LoadedOrigin {
    pub(crate) origin: ForwardOrigin,
    /// A warning for the operator, in one line.
    pub(crate) warning: Option<String>,
}

/// The file of the origin cannot be read.
#[derive(Debug, Error)]
#[error(
    "cannot read the origin of forwarded reports, {}: {error}: make it readable, or remove it, and the next start \
     chooses a new origin",
    path.display()
)]
pub(crate) struct OriginError {
    path: PathBuf,
    error: io::Error,
}

impl OriginError {
    /// Whether the error stays until an operator changes the file.
    pub(crate) fn is_lasting(&self) -> bool {
        open::is_lasting(&self.error)
    }
}

/// Reads the origin from the homedir, or chooses one and writes it there. If it cannot be written, it lasts until the
/// process ends. A file with other contents is replaced.
///
/// # Errors
///
/// The file exists and cannot be read.
pub(crate) fn load(homedir: &Path) -> Result<LoadedOrigin, OriginError> {
    load_of_machine(homedir, &this_machine())
}

/// Returns what tells this machine or container from others: its id and its host name.
fn this_machine() -> Vec<u8> {
    let mut machine = fs::read(MACHINE_ID).unwrap_or_default();
    if let Ok(names) = uname() {
        machine.extend_from_slice(names.nodename().as_bytes());
    }
    machine
}

/// Returns the warning with which a start would replace the file in the homedir, or could not write it.
///
/// # Errors
///
/// The file exists and cannot be read.
pub(crate) fn check(homedir: &Path) -> Result<Option<String>, OriginError> {
    let path = homedir.join(FILE);
    let found = read(&path, &[])?;
    match found {
        Some(FoundOrigin::Malformed) => Ok(Some(malformed(&path, "a start replaces it"))),
        Some(FoundOrigin::Ours(_) | FoundOrigin::Copied) => Ok(None),
        // A homedir that does not exist is another problem.
        None => Ok(access(homedir, AccessFlags::W_OK | AccessFlags::X_OK)
            .err()
            .filter(|_| homedir.is_dir())
            .map(|error| unwritable(&path, &error.into()))),
    }
}

fn malformed(path: &Path, consequence: &str) -> String {
    format!("{}: this is not the origin of forwarded reports: {consequence} by a new origin", path.display())
}

fn copied(path: &Path) -> String {
    format!(
        "{}: this origin of forwarded reports was chosen with another machine id, host name or file: it was replaced by a new \
         origin; if processes in several containers share this homedir or database, set one ForwardOrigin for all",
        path.display()
    )
}

/// Locks the homedir against other processes that choose an origin. Without a lock, as on some network file systems, two
/// that start at the same moment may choose two.
fn lock(homedir: &Path) -> Option<File> {
    let directory = File::open(homedir).ok()?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
}

fn load_of_machine(homedir: &Path, machine: &[u8]) -> Result<LoadedOrigin, OriginError> {
    let path = homedir.join(FILE);
    // Held until the end: of several processes that start at once, one chooses, and the others read what it has written.
    let _lock = lock(homedir);
    let chosen = ForwardOrigin::from_number(RandomState::new().build_hasher().finish());
    let mut failure = io::Error::other("another process changes it again and again");
    for _ in 0..ATTEMPTS {
        let found = read(&path, machine)?;
        if let Some(FoundOrigin::Ours(origin)) = found {
            return Ok(LoadedOrigin { origin, warning: None });
        }
        match write(homedir, &path, machine, chosen, found.is_some()) {
            Ok(()) => {
                let warning = match found {
                    Some(FoundOrigin::Malformed) => Some(malformed(&path, "it was replaced")),
                    Some(FoundOrigin::Copied) => Some(copied(&path)),
                    Some(FoundOrigin::Ours(_)) | None => None,
                };
                return Ok(LoadedOrigin { origin: chosen, warning });
            }
            // Another process was faster: its origin is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => failure = error,
            Err(error) => {
                failure = error;
                break;
            }
        }
    }
    Ok(LoadedOrigin { origin: chosen, warning: Some(unwritable(&path, &failure)) })
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot write the origin of forwarded reports, {}: {error}; after a restart, forwarded reports that come back are \
         counted again: make the homedir writable, or set ForwardOrigin",
        path.display()
    )
}

/// The contents of the file.
enum FoundOrigin {
    Ours(ForwardOrigin),
    /// The file has been copied from another place.
    Copied,
    /// The file has been damaged, or another program has written it.
    Malformed,
}

/// Reads the file, if there is one. Never blocks, whatever the path is.
fn read(path: &Path, machine: &[u8]) -> Result<Option<FoundOrigin>, OriginError> {
    let unreadable = |error| OriginError { path: path.to_owned(), error };
    let file = match open::to_read(path) {
        Ok(file) => file,
        // A symbolic link to nothing cannot be replaced.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    // `/dev/null`, which may be read elsewhere.
    if !metadata.is_file() {
        return Err(unreadable(open::not_regular()));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(unreadable)?;
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| {
        let (origin, place) = text.trim_end().split_once(' ')?;
        Some((origin.parse().ok()?, Digest::from_hex(place.as_bytes())?))
    });
    Ok(Some(match parsed {
        Some((origin, written)) if written.to_hex() == place(machine, metadata.ino()) => {
            FoundOrigin::Ours(origin)
        }
        Some(_) => FoundOrigin::Copied,
        None => FoundOrigin::Malformed,
    }))
}

fn write(
    homedir: &Path,
    path: &Path,
    machine: &[u8],
    origin: ForwardOrigin,
    replaces: bool,
) -> io::Result<()> {
    let mut file: NamedTempFile = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(homedir)?;
    let place = place(machine, file.as_file().metadata()?.ino());
    writeln!(file, "{origin} {}", place.escape_ascii())?;
    file.as_file().sync_all()?;
    let persisted = if replaces { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map(drop).map_err(|error| error.error)
}

/// Returns the hash of a machine and an inode. A hash, because the id of a machine must not be shown to others.
fn place(machine: &[u8], inode: u64) -> [u8; HEX_LEN] {
    let hash = Sha1::new().chain_update(b"pyzord.origin\n").chain_update(machine);
    hex(&hash.chain_update(inode.to_be_bytes()).finalize().into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const MACHINE: &[u8] = b"0123\n";

    fn load(homedir: &Path) -> ForwardOrigin {
        let loaded = load_of_machine(homedir, MACHINE).unwrap();
        assert_eq!(loaded.warning, None);
        loaded.origin
    }

    /// Loads the origin from a copy.
    fn load_copy(homedir: &Path, machine: &[u8]) -> ForwardOrigin {
        let loaded = load_of_machine(homedir, machine).unwrap();
        assert_eq!(loaded.warning, Some(copied(&homedir.join(FILE))));
        loaded.origin
    }

    #[test]
    fn origin_lasts_and_its_file_is_private() {
        let homedir = tempfile::tempdir().unwrap();
        let origin = load(homedir.path());
        assert_eq!(load(homedir.path()), origin);
        let names: Vec<_> =
            fs::read_dir(homedir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        let mode = fs::metadata(homedir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        assert_ne!(load(tempfile::tempdir().unwrap().path()), origin);
    }

    #[test]
    fn copy_of_a_homedir_gets_an_origin_of_its_own() {
        let (homedir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let origin = load(homedir.path());
        fs::copy(homedir.path().join(FILE), copy.path().join(FILE)).unwrap();
        let other = load_copy(copy.path(), MACHINE);
        assert_ne!(other, origin);
        assert_eq!((load(copy.path()), load(homedir.path())), (other, origin));
        let elsewhere = load_copy(homedir.path(), b"4567\n");
        assert_ne!(elsewhere, origin);
    }

    #[test]
    fn place_includes_the_host_name() {
        let name = fs::read("/proc/sys/kernel/hostname").unwrap();
        assert!(!name.trim_ascii().is_empty());
        assert!(this_machine().ends_with(name.trim_ascii()));
    }

    #[test]
    fn other_contents_are_replaced_with_a_warning() {
        let homedir = tempfile::tempdir().unwrap();
        let path = homedir.path().join(FILE);
        for text in ["", "0123456789abcdef", "0123456789abcdef x", "mine", &"0".repeat(2000), "\u{e9}"] {
            fs::write(&path, text).unwrap();
            let expected = format!("{}: this is not the origin of forwarded reports: ", path.display());
            let announced = check(homedir.path()).unwrap().unwrap();
            assert_eq!(announced, format!("{expected}a start replaces it by a new origin"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let loaded = load_of_machine(homedir.path(), MACHINE).unwrap();
            assert_eq!(loaded.warning.unwrap(), format!("{expected}it was replaced by a new origin"));
            assert_eq!(load(homedir.path()), loaded.origin);
            assert_eq!(check(homedir.path()).unwrap(), None);
        }
    }

    #[test]
    fn path_that_is_no_regular_file_is_refused_at_once() {
        let homedir = tempfile::tempdir().unwrap();
        let path = homedir.path().join(FILE);
        assert_eq!(check(homedir.path()).unwrap(), None);
        let expect = |reason: &str| {
            for error in [
                check(homedir.path()).unwrap_err().to_string(),
                load_of_machine(homedir.path(), MACHINE).unwrap_err().to_string(),
            ] {
                let expected =
                    format!("cannot read the origin of forwarded reports, {}: {reason}", path.display());
                assert!(error.starts_with(&expected), "{error}");
            }
        };
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        expect("it is not a regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        expect("it is not a regular file");
        fs::remove_dir(&path).unwrap();
        for (target, reason) in [("/dev/null", "it is not a regular file"), ("missing", "No such file")] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            expect(reason);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn origin_that_cannot_be_written_is_used_with_a_warning() {
        let homedir = tempfile::tempdir().unwrap();
        let missing = homedir.path().join("missing");
        let loaded = load_of_machine(&missing, MACHINE).unwrap();
        let warning = loaded.warning.unwrap();
        assert!(warning.contains("pyzord.origin") && warning.contains("No such file"), "{warning}");
    }

    #[test]
    fn processes_that_start_at_once_get_one_origin() {
        let of_copy = format!("0123456789abcdef {}\n", "0".repeat(HEX_LEN));
        for round in 0..30 {
            let homedir = tempfile::tempdir().unwrap();
            // None, one of another place, and one that is no origin.
            if let Some(text) = [None, Some(of_copy.as_str()), Some("mine")][round % 3] {
                fs::write(homedir.path().join(FILE), text).unwrap();
            }
            let begin = std::sync::Barrier::new(8);
            let load = || {
                begin.wait();
                load_of_machine(homedir.path(), MACHINE).unwrap().origin
            };
            let origins: Vec<ForwardOrigin> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(origins.iter().all(|origin| *origin == origins[0]), "{round}: {origins:?}");
        }
    }
}
