//! The tokio runtime, built so that it still works when no more threads can be started.

use std::panic::catch_unwind;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

/// The maximum number of concurrent host name lookups. If the resolver does not answer, each takes many seconds, and a
/// new one starts every second. Idle threads stay.
const BLOCKING_THREADS: usize = 64;

/// Builds the runtime with one blocking thread, which stays. Without any, tokio panics when it cannot start one, under
/// a limit of processes for example. With one it queues the work.
pub(super) fn build() -> io::Result<Runtime> {
    // Tokio would panic here as well.
    if thread::Builder::new().spawn(|| ())?.join().is_err() {
        return Err(io::Error::other("a thread panicked"));
    }
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(Duration::MAX);
    let runtime = builder.build()?;
    // The thread above may still be ending, and the limit may allow no second one.
    catch_unwind(|| runtime.handle().spawn_blocking(|| ()))
        .map_err(|_| io::Error::other("cannot start a thread"))?;
    Ok(runtime)
}
