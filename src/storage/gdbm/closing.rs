//! Closing the database.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;
use tracing::{error, warn};

use super::core::{GdbmCore, Phase};
use super::file::tail;
use super::lock;

/// Closes the database in another thread, because a sync can take long and the server reports its stop meanwhile.
/// Closes it in this thread if there is no other.
pub(super) async fn close_in_background(core: &Arc<GdbmCore>) {
    let closed = Handle::try_current().ok().and_then(|runtime| {
        let core = Arc::clone(core);
        // Panics if the first thread for such work cannot be started.
        catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(move || core.close_once()))).ok()
    });
    if let Some(closed) = closed
        && let Err(error) = closed.await
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
    // Does nothing if the other thread has closed it.
    core.close_once();
}

impl GdbmCore {
    /// Closes the file, if it is open. Waits for another thread that is closing it.
    ///
    /// The order makes a crash of the machine harmless at any point: the tail is cut off, the file is synced, and only
    /// then the marker is removed. If a repair is owed, the file keeps its tail and the marker stays.
    pub(super) fn close_once(&self) {
        let mut keeper = lock(&self.keeper);
        *lock(&self.phase) = Phase::Stopping;
        self.wake.notify_all();
        if keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            error!("the maintenance thread of the database {} panicked", self.path.display());
        }
        let Some(open) = self.lock().take() else { return };
        self.warn_if_file_is_gone();
        let (path, marker) = (self.path.display(), &self.marker);
        if let Err(error) = open.handle.close() {
            error!("cannot close the database {path}: {error}");
        }
        // The next start repairs the file from its whole content: keep the tail.
        if marker.flag().needs_repair() {
            // Its failure has been logged, and the marker requires a repair anyway.
            let _ = self.sync_file();
            match marker.sync() {
                Ok(()) => warn!(
                    "the database {path} may be damaged, or still needs a repair; the next start repairs it"
                ),
                Err(error) => warn!(
                    "the database {path} may be damaged, and its marker {} cannot be written: {error}; write any text \
                     into the marker, so that the next start repairs the database",
                    marker.path().display()
                ),
            }
            return;
        }
        if let Err(error) = tail::cut(&self.file) {
            warn!(
                "cannot truncate the database {path} to its used part: {error}; the next start tries again"
            );
            return;
        }
        if self.sync_file().is_ok()
            && let Err(error) = marker.clear()
        {
            warn!("cannot remove the marker {}: {error}", marker.path().display());
        }
    }
}
