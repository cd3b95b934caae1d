//! The embedded engine: one GNU dbm file, which belongs to this process alone.
//!
//! A look-up or a change takes about a microsecond, less than handing it to another thread would.
//! So the server's loop itself completes a batch, under a lock that the engine's one thread takes
//! only for short slices of a sweep. That thread also waits for the disk when the file is synced,
//! on a descriptor of its own, so that no request has to.

mod bulk;
mod cache;
mod cancel;
mod codec;
mod file;
pub(crate) mod fuzzing;
mod keeper;
mod opening;
mod repair;
mod sweep;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{error, warn};

pub(super) use self::bulk::open_bulk;
pub use self::cancel::Cancel;
use self::cancel::opened;
use self::codec::Stored;
pub(super) use self::codec::in_calendar;
use self::file::disk_note::Note;
use self::file::handle::GdbmError;
use self::file::location::Place;
use self::file::open_file::Open;
use self::file::tail;
use self::opening::{Opened as OpenedFile, Opening};
use self::repair::marker::Marker;
pub use self::repair::recover::recover;
use super::{Batch, BoxFuture, Engine, Entry, Health, OpenError, Opened, Options, Progress, StorageError};
use crate::allowance::more;
use crate::record::{Kind, Timestamp};
use pyzor_wire::digest::Digest;

/// How many blocks of the file the library keeps decoded. Its own choice would grow with the
/// database without bound.
const CACHED_BLOCKS: usize = 512;

/// The engine on an open file.
pub struct Gdbm {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    place: Place,
    marker: Marker,
    age: Option<Duration>,
    /// None once closed.
    open: Mutex<Option<Open>>,
    /// The same open file, to be synced without the lock on it here. It is locked against other processes until
    /// this is dropped, when its marker is gone.
    file: File,
    stopping: Mutex<bool>,
    wake: Condvar,
    failure: watch::Sender<Option<String>>,
    /// Held while changes are made durable, so that nobody takes those under way for done.
    syncing: Mutex<()>,
    /// Whether it has been told that the file is not at its place any more.
    is_gone: AtomicBool,
}

/// Opens the database for [`super::open`]. A repair takes its time, so that is done by another thread; it is
/// given up if the future is dropped.
pub(super) fn open(options: &Options) -> Opened<'_> {
    let options = options.clone();
    Box::pin(async move {
        let engine = opened(move |cancel| {
            let note = options.homedir.as_deref().map(Note::of);
            Gdbm::open_as(&options.path, options.cleanup_age, TimeZone::system(), note, cancel)
        });
        let engine = engine.await?;
        Ok(Arc::new(engine) as Arc<dyn Engine>)
    })
}

impl Gdbm {
    /// Opens a database file, creating it if there is none, and starts the thread that syncs it
    /// and deletes records older than `age`. Dates in the file are of `zone`.
    ///
    /// # Errors
    ///
    /// One line that names the file and says what to do.
    pub fn open(path: &Path, age: Option<Duration>, zone: TimeZone) -> Result<Self, OpenError> {
        Self::open_as(path, age, zone, None, &Cancel::default())
    }

    fn open_as(
        path: &Path,
        age: Option<Duration>,
        zone: TimeZone,
        note: Option<Note>,
        cancel: &Cancel,
    ) -> Result<Self, OpenError> {
        let opening = Opening { path, zone, age, cached_blocks: CACHED_BLOCKS, note, cancel };
        let OpenedFile { mut open, marker, place, file } = opening.run()?;
        let path = place.file().to_owned();
        // A full disk is told at the start, not at the first report.
        open.admit(&path, Timestamp::now());
        open.ahead.begin();
        let shared = Arc::new(Shared {
            path: path.clone(),
            place,
            marker,
            age,
            open: Mutex::new(Some(open)),
            file,
            stopping: Mutex::new(false),
            wake: Condvar::new(),
            failure: watch::Sender::new(None),
            syncing: Mutex::new(()),
            is_gone: AtomicBool::new(false),
        });
        let keeper = thread::Builder::new().name("gdbm".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _told = DeathTold(&shared);
                shared.keep();
            }
        });
        let keeper = keeper.map_err(|error| {
            OpenError::new(format!("no thread can be started for the database {}: {error}", path.display()))
        })?;
        Ok(Self { keeper: Mutex::new(Some(keeper)), shared })
    }

    /// Closes the file, unless that has been done.
    fn close_once(&self) {
        self.stop_keeper();
        let Some(open) = self.shared.lock().take() else { return };
        self.shared.look_for_file();
        let (path, marker) = (self.shared.path.display(), &self.shared.marker);
        if let Err(error) = open.handle.close() {
            error!("closing the database {path} failed: {error}");
        }
        // What may be damaged is to be repaired by the next start, with all that is in the file.
        if marker.flag().is_owed() {
            self.shared.sync_file();
            match marker.sync() {
                Ok(()) => warn!(
                    "the database {path} may be damaged, or a repair of it is still to be made; the next start repairs it"
                ),
                Err(error) => warn!(
                    "the database {path} may be damaged, which cannot be noted in {}: {error}; write anything into that file \
                     before the next start, so that it repairs the database",
                    marker.path().display()
                ),
            }
            return;
        }
        if let Err(error) = tail::cut(&self.shared.file) {
            warn!("the tail of the database {path} cannot be cut off: {error}; the next start tries again");
            return;
        }
        if self.shared.sync_file()
            && let Err(error) = marker.clear()
        {
            warn!("{} cannot be removed: {error}", marker.path().display());
        }
    }

    fn stop_keeper(&self) {
        *lock(&self.shared.stopping) = true;
        self.shared.wake.notify_all();
        if let Some(keeper) = lock(&self.keeper).take()
            && keeper.join().is_err()
        {
            error!("the thread that looks after the database {} has died", self.shared.path.display());
        }
    }
}

/// Tells of the death of the thread that has it: without that nothing would reach the disk in time.
struct DeathTold<'a>(&'a Shared);

impl Drop for DeathTold<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let path = self.0.path.display();
            self.0.fail(format!("the thread that looks after the database {path} has died: the server ends"));
        }
    }
}

impl Engine for Gdbm {
    fn describe(&self) -> String {
        format!("gdbm, {}", self.shared.path.display())
    }

    fn run(&self, mut batch: Batch) -> Progress {
        let now = batch.now();
        if let Some(open) = self.shared.lock().as_mut() {
            open.cache.fetch(batch.entries().iter().map(|entry| &entry.digest));
            for entry in batch.entries_mut() {
                if let Err(error) = self.shared.serve(open, entry, now) {
                    entry.fail(self.shared.complain(open, &error));
                }
            }
        }
        Progress::Done(batch)
    }

    fn count_limit(&self) -> i64 {
        i64::MAX
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            match tokio::task::spawn_blocking(move || shared.sync()).await {
                Ok(true) => Ok(()),
                _ => Err(StorageError::Unavailable),
            }
        })
    }

    fn health(&self) -> Health {
        if let Some(why) = self.shared.failure.borrow().clone() {
            return Health::Failed(why);
        }
        match self.shared.lock().as_ref() {
            None => Health::Away("it has been closed".to_owned()),
            Some(open) if open.unsynced => Health::ReadOnly("it cannot be written to its disk".to_owned()),
            Some(open) => match open.reserve.refusal() {
                Some(why) => Health::ReadOnly(why.to_owned()),
                None => Health::Serving,
            },
        }
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        let mut failure = self.shared.failure.subscribe();
        Box::pin(async move {
            let why = failure.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                // The sender lives as long as the engine, which is borrowed.
                None => std::future::pending().await,
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.close_once() })
    }
}

impl Drop for Gdbm {
    /// A start that is given up drops the engine in the middle of something else.
    fn drop(&mut self) {
        self.close_once();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        lock(&self.open)
    }

    fn serve(&self, open: &mut Open, entry: &mut Entry, now: Timestamp) -> Result<(), GdbmError> {
        let known = match open.cache.get(&entry.digest) {
            Some(known) => known,
            None => match self.read(open, &entry.digest)? {
                Ok(known) => known,
                Err(error) => {
                    entry.fail(error);
                    return Ok(());
                }
            },
        };
        let stored = known.unwrap_or_default();
        if entry.look_up {
            entry.found = Ok(if entry.times { stored.record(open.calendar.zone()) } else { stored.counts() });
        }
        if !entry.changes() {
            return Ok(());
        }
        let key = entry.digest.to_hex();
        let outcome = if known.is_none() && self.would_burst(open, &key) {
            Err(StorageError::Unavailable)
        } else if open.admit(&self.path, now) {
            let mut changed = stored;
            for (kind, amount) in [(Kind::Report, entry.reports), (Kind::Whitelist, entry.whitelists)] {
                if amount > 0 {
                    changed.add(kind, amount, now);
                }
            }
            match open.put(&key, &changed) {
                Ok(()) => {
                    open.cache.put(&entry.digest, Some(changed));
                    open.keep_ahead();
                    Ok(())
                }
                Err(error) => {
                    open.cache.forget(&entry.digest);
                    Err(self.complain(open, &error))
                }
            }
        } else {
            Err(StorageError::Unavailable)
        };
        (entry.reported, entry.whitelisted) = (outcome, outcome);
        Ok(())
    }

    /// Reads what the file has of a digest, and keeps it at hand.
    fn read(
        &self,
        open: &mut Open,
        digest: &Digest,
    ) -> Result<Result<Option<Stored>, StorageError>, GdbmError> {
        let known = if open.handle.fetch(&digest.to_hex(), &mut open.value)? {
            let Some(stored) = Stored::decode(&open.value) else {
                if let Some(withheld) = open.complaints.take(Instant::now()) {
                    error!("the record of {digest} in {} is damaged{}", self.path.display(), more(withheld));
                }
                return Ok(Err(StorageError::Damaged));
            };
            Some(stored)
        } else {
            None
        };
        open.cache.put(digest, known);
        Ok(Ok(known))
    }

    /// Whether a new key would blow the file's directory up, as chosen digests do.
    fn would_burst(&self, open: &mut Open, key: &[u8]) -> bool {
        let why = match open.directory.would_burst(key) {
            Ok(false) => return false,
            Ok(true) => "it collides with too many others, which somebody must have chosen".to_owned(),
            Err(error) => format!("the directory cannot be read: {error}"),
        };
        if let Some(withheld) = open.complaints.take(Instant::now()) {
            let (key, path) = (key.escape_ascii(), self.path.display());
            warn!("the digest {key} is not stored in {path}: {why}{}", more(withheld));
        }
        true
    }

    /// Has the server end for this reason, of which only the first one counts.
    fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
    }

    /// Logs an error of the library, and finds out whether it was the last one.
    fn complain(&self, open: &mut Open, error: &GdbmError) -> StorageError {
        let path = self.path.display();
        self.marker.flag().owe();
        if open.handle.needs_recovery() {
            let why = format!(
                "the database {path} is damaged ({error}): the server ends, and its next start repairs the file; \
                 should that not help, run pyzord --recover"
            );
            self.fail(why);
        } else if let Some(withheld) = open.complaints.take(Instant::now()) {
            error!("the database {path}: {error}{}", more(withheld));
        }
        StorageError::Unavailable
    }
}

/// A pipe would be waited for, for ever.
fn check_kind(path: &Path) -> Result<(), OpenError> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let path = path.display();
        return Err(OpenError::new(format!("cannot open the database {path}: it is not a regular file")));
    }
    Ok(())
}

fn cannot_use(path: &Path, error: &io::Error) -> OpenError {
    OpenError::new(format!("cannot use the database {}: {error}", path.display()))
}

/// The moment before which a last change has expired.
fn horizon(age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age))
}

/// A panic of another thread leaves every structure here as usable as an error does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
