//! The runtime, which goes on where no thread can be started.

use std::panic::catch_unwind;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

/// How many names may be looked up at once: where servers of names do not answer, one takes many seconds, and
/// another begins each second. All threads that were needed at once stay.
const BLOCKING_THREADS: usize = 64;

/// Makes the runtime, with one thread for what may block. That thread stays: the runtime panics where it
/// needs one, has none and cannot start one, as under a limit of processes. With one it waits.
pub(super) fn build() -> io::Result<Runtime> {
    // It would panic here, too.
    if thread::Builder::new().spawn(|| ())?.join().is_err() {
        return Err(io::Error::other("a thread has died"));
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(Duration::MAX);
    let runtime = builder.build()?;
    // The one above may still be ending, and a limit may allow no second one.
    catch_unwind(|| runtime.handle().spawn_blocking(|| ()))
        .map_err(|_| io::Error::other("no thread can be started"))?;
    Ok(runtime)
}
