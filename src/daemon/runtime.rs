//! The tokio runtime, built so that it works on when no more threads can be started.

use std::panic::catch_unwind;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

/// The most host names that are resolved at once. A resolver that does not answer takes many seconds for each, and
/// another one begins every second. Threads that have been started stay.
const BLOCKING_THREADS: usize = 64;

/// Builds the runtime with one blocking thread, which stays. Without any, tokio panics when it cannot start one, under
/// a limit of processes for example. With one it queues the work.
pub(super) fn build() -> io::Result<Runtime> {
    // Tokio would panic here as well.
    if thread::Builder::new().spawn(|| ())?.join().is_err() {
        return Err(io::Error::other("a thread has crashed"));
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(Duration::MAX);
    let runtime = builder.build()?;
    // The thread above may still be ending, and the limit may allow no second one.
    catch_unwind(|| runtime.handle().spawn_blocking(|| ()))
        .map_err(|_| io::Error::other("cannot start a thread"))?;
    Ok(runtime)
}
