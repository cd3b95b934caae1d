//! The gdbm engine as the server sees it: opening, batches, closing.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::cancel::{Cancel, open_cancellable};
use super::closing::close_in_background;
use super::core::{GdbmCore, Phase};
use super::file::disk_note::DiskNote;
use super::file::header::Header;
use super::lock;
use super::opening::{FileOpener, OpenedFile};
use crate::record::Timestamp;
use crate::storage::{
    Availability, Batch, BatchProgress, BoxFuture, Engine, EngineOpenError, EngineOpening, EngineOptions,
    EngineStatus, one_line,
};

/// Number of blocks of the file that the library keeps decoded. Its default grows with the database without bound.
const CACHED_BLOCKS: usize = 512;

/// The gdbm engine.
pub struct Gdbm {
    pub(super) shared: Arc<GdbmCore>,
}

/// Opens the database for [`crate::storage::open`], in another thread, because a repair can take long. Dropping the
/// future cancels it.
pub(in crate::storage) fn open(options: &EngineOptions) -> EngineOpening<'_> {
    let options = options.clone();
    Box::pin(async move {
        let engine = open_cancellable(move |cancel| {
            let note = options.homedir.as_deref().map(DiskNote::of);
            Gdbm::open_as(&options.path, options.cleanup_age, TimeZone::system(), note, cancel)
        });
        let engine = engine.await?;
        Ok(Arc::new(engine) as Arc<dyn Engine>)
    })
}

impl Gdbm {
    /// Opens a database file, or creates it, and starts the thread that syncs it and deletes records that have not
    /// changed for `age`. Dates in the file are local times of `zone`.
    ///
    /// # Errors
    ///
    /// One line that names the file and says what to do.
    pub fn open(path: &Path, age: Option<Duration>, zone: TimeZone) -> Result<Self, EngineOpenError> {
        let engine = Self::open_as(path, age, zone, None, &Cancel::default())?;
        engine.shared.begin_expiry();
        Ok(engine)
    }

    fn open_as(
        path: &Path,
        age: Option<Duration>,
        zone: TimeZone,
        note: Option<DiskNote>,
        cancel: &Cancel,
    ) -> Result<Self, EngineOpenError> {
        let opening = FileOpener { path, zone, age, cached_blocks: CACHED_BLOCKS, note, cancel };
        let OpenedFile { mut open, marker, location, file } = opening.open()?;
        let path = location.file().to_owned();
        // Reports a full disk at the start rather than at the first report.
        open.admit(&path, Timestamp::now());
        open.tail.begin();
        let condition = Arc::clone(&open.condition);
        if let Ok(Some(header)) = Header::read(&file) {
            condition.measured(header.next_block);
        }
        let shared = Arc::new(GdbmCore {
            path: path.clone(),
            location,
            marker,
            age,
            open: Mutex::new(Some(open)),
            condition,
            file,
            keeper: Mutex::new(None),
            phase: Mutex::new(Phase::Opened),
            wake: Condvar::new(),
            failure: watch::Sender::new(None),
            is_gone: AtomicBool::new(false),
        });
        let keeper = thread::Builder::new().name("gdbm".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _report = PanicReport(&shared);
                shared.keep();
            }
        });
        let keeper = keeper.map_err(|error| {
            EngineOpenError::new(format!(
                "cannot start a thread for the database {}: {error}",
                path.display()
            ))
        })?;
        *lock(&shared.keeper) = Some(keeper);
        Ok(Self { shared })
    }
}

/// Stops the server if the thread that holds this panics: without that thread nothing would be synced any more.
pub(super) struct PanicReport<'a>(pub(super) &'a GdbmCore);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let path = self.0.path.display();
            self.0.fail(format!("the maintenance thread of the database {path} panicked: the server stops"));
        }
    }
}

impl Engine for Gdbm {
    fn describe(&self) -> String {
        format!("gdbm, {}", self.shared.path.display())
    }

    fn run(&self, mut batch: Batch) -> BatchProgress {
        let now = batch.now();
        if let Some(open) = self.shared.lock().as_mut() {
            open.cache.fetch(batch.entries().iter().map(|entry| &entry.digest));
            for entry in batch.entries_mut() {
                if let Err(error) = self.shared.serve(open, entry, now) {
                    entry.fail(self.shared.report_error(open, &error));
                }
            }
        }
        BatchProgress::Done(batch)
    }

    fn count_limit(&self) -> i64 {
        i64::MAX
    }

    /// Returns whether the file is open. Also true after a failure, because the server then stops.
    fn is_available(&self) -> bool {
        self.shared.failure.borrow().is_some() || self.shared.lock().is_some()
    }

    fn status(&self) -> EngineStatus {
        let mut status = self.shared.condition.status(Instant::now());
        if let Some(why) = self.shared.failure.borrow().as_deref() {
            status.availability = Availability::Unavailable;
            status.since_seconds = None;
            status.reason = Some(one_line(why));
        }
        if self.shared.marker.flag().needs_repair() {
            let path = self.shared.path.display();
            status.problems.push(format!(
                "the database {path} may be damaged, or still needs a repair; the next start repairs it"
            ));
        }
        status
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        let mut failure = self.shared.failure.subscribe();
        Box::pin(async move {
            let why = failure.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                // Unreachable: the sender lives as long as the borrowed engine.
                None => std::future::pending().await,
            }
        })
    }

    fn begin_expiry(&self) {
        self.shared.begin_expiry();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(close_in_background(&self.shared))
    }
}

impl Drop for Gdbm {
    /// Closes the file if a cancelled start has left it open.
    fn drop(&mut self) {
        self.shared.close_once();
    }
}
