//! A database file as a whole.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tracing::warn;

use super::cancel::{Cancel, opened};
use super::codec::{Stored, in_calendar};
use super::file::directory::hash;
use super::file::handle::{GdbmError, Handle};
use super::file::location::{Place, Use, cannot_use, check_kind};
use super::file::open_file::Open;
use super::file::reserve::News;
use super::lock;
use super::opening::{Opened, Opening};
use super::repair::explain::explain;
use super::repair::marker::Marker;
use super::repair::rewrite::{self, Repair};
use super::sweep::ELEMENT_SIZE;
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{
    Addition, Bulk, BulkError, Item, Items, Outcome, Purpose, Put, Work, map_tallies, map_times, united,
};
use crate::storage::{Cursor, OpenError, OpenedBulk, Options};

/// How many blocks of the file the library keeps decoded: 32 MiB in blocks of the usual size. Records
/// come in any order, so that more of them is less work.
const CACHED_BLOCKS: usize = 8192;
/// Up to which size a file is mapped into memory, which is quicker. A larger one would fill the memory, at
/// least in appearance; and one that grows has to be mapped anew all the time.
const LARGEST_MAPPED: u64 = 256 << 20;

/// A whole file.
struct Whole {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    place: Place,
    zone: TimeZone,
    /// None for a file that is only read.
    marker: Option<Marker>,
    /// The open file, which is locked until this is dropped.
    file: File,
    state: Mutex<State>,
}

struct State {
    /// None once closed.
    open: Option<Open>,
    /// How many keys the scan under way has met; none while there is none under way.
    walked: Option<u64>,
    /// What is to be deleted when the scan has left it behind, with how far it was when that was asked.
    ///
    /// Deleting moves other keys within their bucket, and a scan of that bucket would miss some.
    doomed: Vec<(u64, Item)>,
    /// Whether something has been deleted, and whether a scan has come to its end.
    has_deleted: bool,
    was_scanned: bool,
    /// Whether the file is mapped into memory.
    is_mapped: bool,
    /// How many keys a scan must have met behind a key to have left its bucket.
    distance: u64,
}

/// Opens a file for [`crate::storage::bulk::open`].
pub(in crate::storage) fn open_bulk(options: &Options, purpose: Purpose) -> OpenedBulk<'_> {
    Box::pin(async move {
        let (path, age) = (options.path.clone(), options.cleanup_age);
        let whole =
            opened(move |cancel| Whole::open(&path, purpose, TimeZone::system(), age, cancel)).await?;
        Ok(Arc::new(whole) as Arc<dyn Bulk>)
    })
}

impl Whole {
    fn open(
        path: &Path,
        purpose: Purpose,
        zone: TimeZone,
        age: Option<Duration>,
        cancel: &Cancel,
    ) -> Result<Self, OpenError> {
        let to_write = || open_to_write(path, &zone, age, cancel);
        let (mut open, marker, place, file) = match purpose {
            Purpose::Look | Purpose::Read => match open_to_read(path, &zone)? {
                (open, place, file, true) => (open, None, place, file),
                (open, _, file, false) if purpose == Purpose::Read => {
                    drop((open, file));
                    to_write()?
                }
                _ => {
                    return Err(OpenError::new(format!(
                        "the database {} was not closed by the process that had it, which must have been killed: \
                         start and stop pyzord on it, which repairs it, first",
                        path.display()
                    )));
                }
            },
            Purpose::Empty => {
                // Nothing is to be created.
                drop(open_to_read(path, &zone)?);
                to_write()?
            }
            Purpose::Fill => to_write()?,
        };
        let block = open.handle.block_size().map_err(|error| explain(path, &error))?;
        let state = State {
            open: Some(open),
            walked: None,
            doomed: Vec::new(),
            has_deleted: false,
            was_scanned: false,
            is_mapped: true,
            distance: (block / ELEMENT_SIZE) as u64 + 1,
        };
        let path = place.file().to_owned();
        let shared = Shared { path, place, zone, marker, file, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Does something with the open file, in a thread that may wait for the disk.
    fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, &mut State) -> Result<T, BulkError> + Send + 'static,
    ) -> Work<'_, T> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                let mut state = lock(&shared.state);
                shared.bound_memory(&mut state)?;
                work(&shared, &mut state)
            });
            done.await.unwrap_or_else(|error| Err(BulkError(format!("the work on a file has died: {error}"))))
        })
    }
}

/// Opens a file for reading only; says whether it was closed.
fn open_to_read(path: &Path, zone: &TimeZone) -> Result<(Open, Place, File, bool), OpenError> {
    check_kind(path)?;
    let place = Place::of(path)?;
    let file = place.lock(Use::Read)?;
    let mut handle = Handle::open_to_read(&file, place.file()).map_err(|error| explain(path, &error))?;
    let is_closed = !handle.needs_recovery() && !Marker::of(&place).is_there();
    if is_closed {
        handle.keep_cached(CACHED_BLOCKS).map_err(|error| explain(path, &error))?;
    }
    let open = Open::new(handle, &file, zone.clone()).map_err(|error| cannot_use(path, &error))?;
    Ok((open, place, file, is_closed))
}

fn open_to_write(
    path: &Path,
    zone: &TimeZone,
    age: Option<Duration>,
    cancel: &Cancel,
) -> Result<(Open, Option<Marker>, Place, File), OpenError> {
    let (zone, cached_blocks) = (zone.clone(), CACHED_BLOCKS);
    let opening = Opening { path, zone, age, cached_blocks, note: None, cancel };
    let Opened { open, marker, place, file } = opening.run()?;
    Ok((open, Some(marker), place, file))
}

impl Shared {
    fn failed(&self, open: &mut Open, error: &GdbmError) -> BulkError {
        let path = self.path.display();
        if let Some(marker) = &self.marker {
            marker.flag().owe();
        }
        let advice = if open.handle.needs_recovery() { "; the next run repairs it" } else { "" };
        BulkError(format!("the database {path}: {error}{advice}"))
    }

    fn bound_memory(&self, state: &mut State) -> Result<(), BulkError> {
        if let Some(open) = state.open.as_mut().filter(|_| state.is_mapped)
            && self.file.metadata().is_ok_and(|metadata| metadata.len() > LARGEST_MAPPED)
        {
            open.handle.unmap().map_err(|error| self.failed(open, &error))?;
            state.is_mapped = false;
        }
        Ok(())
    }

    fn item(&self, open: &mut Open, key: &[u8]) -> Result<Option<Item>, BulkError> {
        match open.handle.fetch(key, &mut open.value) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let held = open.value.clone();
                let record = match Stored::decode(&held) {
                    Some(stored) => Ok(stored.record(&self.zone)),
                    None => Err(format!("cannot decode '{}'", excerpt(&held))),
                };
                Ok(Some(Item { key: key.to_vec(), held, record }))
            }
            Err(error) => Err(self.failed(open, &error)),
        }
    }

    fn page(&self, state: &mut State, from: Option<Cursor>, limit: usize) -> Result<Items, BulkError> {
        let open = state.open.as_mut().ok_or_else(|| self.closed())?;
        let mut key = Vec::new();
        let mut walked = state.walked.filter(|_| from.is_some()).unwrap_or(0);
        let found = match from {
            Some(Cursor(last)) => {
                key = last;
                open.handle.next_key(&mut key)
            }
            None => open.handle.first_key(&mut key),
        };
        let mut more = found.map_err(|error| self.failed(open, &error))?;
        let mut page = Items::default();
        while more {
            walked += 1;
            page.items.extend(self.item(open, &key)?);
            if page.items.len() >= limit {
                page.next = Some(Cursor(key));
                break;
            }
            more = open.handle.next_key(&mut key).map_err(|error| self.failed(open, &error))?;
        }
        state.walked = page.next.as_ref().map(|_| walked);
        state.was_scanned |= page.next.is_none();
        self.delete_doomed(state, state.walked)?;
        Ok(page)
    }

    /// Deletes what a scan that has met so many keys has left behind, or everything without one.
    fn delete_doomed(&self, state: &mut State, walked: Option<u64>) -> Result<(), BulkError> {
        let State { open, doomed, distance, has_deleted, .. } = state;
        let open = open.as_mut().ok_or_else(|| self.closed())?;
        let is_behind = |at: u64| walked.is_none_or(|walked| walked >= at + *distance);
        let end = doomed.partition_point(|(at, _)| is_behind(*at));
        for (_, item) in doomed.drain(..end) {
            // Nobody else can have changed it but we ourselves.
            if !open.handle.fetch(&item.key, &mut open.value).map_err(|error| self.failed(open, &error))?
                || open.value != item.held
            {
                continue;
            }
            self.admit(open)?;
            open.dirty = true;
            open.handle.delete(&item.key).map_err(|error| self.failed(open, &error))?;
            *has_deleted = true;
        }
        Ok(())
    }

    fn admit(&self, open: &mut Open) -> Result<(), BulkError> {
        match open.reserve.admit(Timestamp::now().seconds()) {
            (true, News::Unsupported(why)) => {
                let path = self.path.display();
                warn!(
                    "the file system of the database {path} cannot reserve blocks ({why}): see that its disk does not \
                     become full, since that destroys records"
                );
                Ok(())
            }
            (true, _) => Ok(()),
            (false, _) => {
                let why = open.reserve.refusal().unwrap_or_default().to_owned();
                Err(BulkError(format!("there is no room for the database {}: {why}", self.path.display())))
            }
        }
    }

    fn put(&self, open: &mut Open, key: &[u8], stored: &Stored) -> Result<Outcome, BulkError> {
        let bursts = open.directory.would_burst(key);
        if bursts.map_err(|error| BulkError(format!("the database {}: {error}", self.path.display())))?
            && !open.handle.fetch(key, &mut open.value).map_err(|error| self.failed(open, &error))?
        {
            let why = "it collides with too many others, which somebody must have chosen";
            return Ok(Outcome::Refused(why.to_owned()));
        }
        self.admit(open)?;
        stored.encode(&mut open.text, &mut open.calendar);
        open.dirty = true;
        // Most are new, and those need no look-up before.
        let is_new = open.handle.insert(key, &open.text).map_err(|error| self.failed(open, &error))?;
        if !is_new {
            open.handle.store(key, &open.text).map_err(|error| self.failed(open, &error))?;
        }
        Ok(Outcome::Done)
    }

    /// Rids the file, which has been closed, of what is left of deleted records: a repair would take that for lost
    /// ones. It needs room for what is left, and is worth it only when that is little.
    /// Returns what took its place, locked.
    fn compact(&self) -> Option<File> {
        let cancel = Cancel::default();
        let repair = Repair { place: &self.place, zone: &self.zone, horizon: None, cancel: &cancel };
        match repair.run(&self.file, rewrite::Purpose::Compact) {
            Ok(repaired) => repaired.file,
            Err(error) => {
                warn!(
                    "the database {} could not be made smaller: {error}; until it is, a repair can bring deleted records \
                     back (gdbmtool's reorganize makes it smaller)",
                    self.path.display()
                );
                None
            }
        }
    }

    fn close(&self, state: &mut State, may_compact: bool) -> Result<(), BulkError> {
        let Some(mut open) = state.open.take() else { return Ok(()) };
        let needs_recovery = open.handle.needs_recovery();
        let failed = |why: String| BulkError(format!("closing the database {}: {why}", self.path.display()));
        open.handle.close().map_err(|error| failed(error.to_string()))?;
        // Something may have been given up half done.
        let is_sound = |marker: &&Marker| !needs_recovery && !marker.flag().is_owed();
        if let Some(marker) = self.marker.as_ref().filter(is_sound) {
            let is_worth_it = state.has_deleted && state.was_scanned && may_compact;
            let _in_its_place = is_worth_it.then(|| self.compact());
            self.file
                .sync_all()
                .and_then(|()| self.place.sync_directory())
                .and_then(|()| marker.clear())
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    fn closed(&self) -> BulkError {
        BulkError(format!("the database {} has been closed", self.path.display()))
    }
}

impl Drop for Shared {
    /// Work that is given up drops it in the middle of something else.
    fn drop(&mut self) {
        if let Err(error) = self.close(&mut lock(&self.state), false) {
            warn!("{error}");
        }
    }
}

/// The beginning of something, for people.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 100;
    let more = if bytes.len() > LONGEST { "…" } else { "" };
    format!("{}{more}", bytes[..bytes.len().min(LONGEST)].escape_ascii())
}

/// A record as another file holds it, if it does.
fn exact(held: Option<&[u8]>, record: &Record) -> Stored {
    held.and_then(Stored::decode).unwrap_or_else(|| Stored::from_record(record))
}

/// Puts changes into the order of the file, in which neighbours are in one block; says which was where.
fn in_order<T>(changes: Vec<T>, key: impl Fn(&T) -> [u8; 40]) -> Vec<(usize, T)> {
    let mut ordered: Vec<(usize, T)> = changes.into_iter().enumerate().collect();
    ordered.sort_by_cached_key(|(_, change)| hash(&key(change)));
    ordered
}

impl Bulk for Whole {
    fn engine(&self) -> &'static str {
        "gdbm"
    }

    fn describe(&self) -> String {
        format!("gdbm, {}", self.shared.path.display())
    }

    fn identity(&self, _token: &str, _first: bool) -> Work<'_, Vec<String>> {
        Box::pin(async {
            let metadata = self.shared.file.metadata();
            let metadata = metadata.map_err(|error| {
                BulkError(format!("the database {}: {error}", self.shared.path.display()))
            })?;
            Ok(vec![format!("file {}:{}", metadata.dev(), metadata.ino())])
        })
    }

    fn names(&self) -> Work<'_, Vec<String>> {
        // A repair makes it another file of the same name, and a rename the same file of another name.
        let mut names = vec![format!("file {}", self.shared.path.display())];
        if let Ok(metadata) = self.shared.file.metadata() {
            let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
            let made = made.map_or(0, |made| made.as_nanos());
            names.push(format!("inode {}:{} of {made}", metadata.dev(), metadata.ino()));
        }
        Box::pin(async { Ok(names) })
    }

    fn zone(&self) -> Option<TimeZone> {
        Some(self.shared.zone.clone())
    }

    fn has_stragglers(&self) -> bool {
        false
    }

    fn estimate(&self) -> Work<'_, Option<u64>> {
        self.work(|shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            open.handle.count().map(Some).map_err(|error| shared.failed(open, &error))
        })
    }

    fn has_whole_seconds(&self) -> bool {
        false
    }

    fn clamp(&self, record: &Record) -> Record {
        let time = |time: Timestamp| Some(in_calendar(&self.shared.zone, time));
        map_tallies(record, |_, tally| map_times(tally, time))
    }

    fn read_back(&self, records: Vec<Record>) -> Work<'_, Vec<Record>> {
        let local = |time: Timestamp| {
            let moment = jiff::Timestamp::from_microsecond(time.micros()).ok()?;
            let date: DateTime = self.shared.zone.to_datetime(moment);
            let moment = self.shared.zone.to_timestamp(date).ok()?;
            Some(Timestamp::from_micros(moment.as_microsecond()))
        };
        let back = |record: &Record| map_tallies(&self.clamp(record), |_, tally| map_times(tally, local));
        let records = records.iter().map(back).collect();
        Box::pin(async { Ok(records) })
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> Work<'_, Items> {
        self.work(move |shared, state| shared.page(state, from, limit.max(1)))
    }

    fn read(&self, keys: Vec<Vec<u8>>) -> Work<'_, Vec<Option<Item>>> {
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            keys.iter().map(|key| shared.item(open, key)).collect()
        })
    }

    fn store(&self, records: Vec<Put>) -> Work<'_, Vec<Outcome>> {
        let clamped = |mut put: Put| {
            put.record = self.clamp(&put.record);
            put
        };
        let records: Vec<Put> = records.into_iter().map(clamped).collect();
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            let mut outcomes = vec![Outcome::Changed; records.len()];
            for (at, put) in in_order(records, |put| put.digest.to_hex()) {
                let stored = exact(put.held.as_deref(), &put.record);
                outcomes[at] = shared.put(open, &put.digest.to_hex(), &stored)?;
            }
            Ok(outcomes)
        })
    }

    fn add(&self, additions: Vec<Addition>) -> Work<'_, Vec<Outcome>> {
        let clamped = |mut addition: Addition| {
            addition.record = self.clamp(&addition.record);
            addition
        };
        let additions: Vec<Addition> = additions.into_iter().map(clamped).collect();
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            let mut outcomes = vec![Outcome::Changed; additions.len()];
            for (at, addition) in in_order(additions, |addition| addition.digest.to_hex()) {
                let key = addition.digest.to_hex();
                let sum = match shared.item(open, &key)? {
                    None => exact(addition.held.as_deref(), &addition.record),
                    Some(Item { record: Ok(there), .. }) => {
                        Stored::from_record(&united(&there, &addition.record))
                    }
                    Some(Item { record: Err(why), .. }) => {
                        outcomes[at] = Outcome::Refused(format!("in the destination: {why}"));
                        continue;
                    }
                };
                outcomes[at] = shared.put(open, &key, &sum)?;
            }
            Ok(outcomes)
        })
    }

    fn delete(&self, items: Vec<Item>) -> Work<'_, Vec<Outcome>> {
        self.work(move |shared, state| {
            let mut outcomes = Vec::with_capacity(items.len());
            let walked = state.walked;
            for item in items {
                let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
                let still = shared.item(open, &item.key)?;
                if still.as_ref().is_some_and(|still| still.held != item.held) {
                    outcomes.push(Outcome::Changed);
                    continue;
                }
                outcomes.push(Outcome::Done);
                state.doomed.push((walked.unwrap_or_default(), item));
            }
            shared.delete_doomed(state, walked)?;
            Ok(outcomes)
        })
    }

    fn sync(&self) -> Work<'_, ()> {
        // Beside a scan, which need not wait for the disk.
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let path = shared.path.clone();
            let synced = tokio::task::spawn_blocking(move || shared.file.sync_all()).await;
            match synced {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    Err(BulkError(format!("{} cannot be written to its disk: {error}", path.display())))
                }
                Err(error) => Err(BulkError(format!("the work on a file has died: {error}"))),
            }
        })
    }

    fn close(&self) -> Work<'_, ()> {
        self.work(|shared, state| {
            if state.open.is_none() {
                return Ok(());
            }
            let deleted = shared.delete_doomed(state, None);
            shared.close(state, deleted.is_ok()).and(deleted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_leave_the_marker_for_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pyzord.db");
        let garbage = folder.path().join("garbage");
        std::fs::write(&garbage, [7; 1000]).unwrap();
        let file = File::open(&garbage).unwrap();
        let error = Handle::open(&file, &garbage).err().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for fails in [false, true] {
            let whole = Whole::open(&path, Purpose::Fill, TimeZone::UTC, None, &Cancel::default()).unwrap();
            if fails {
                let mut state = lock(&whole.shared.state);
                let _ = whole.shared.failed(state.open.as_mut().unwrap(), &error);
            }
            runtime.block_on(whole.close()).unwrap();
            let marker = Marker::of(&Place::of(&path).unwrap());
            assert_eq!(marker.is_there(), fails);
        }
    }
}
