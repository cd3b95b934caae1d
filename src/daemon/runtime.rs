//! The runtime, which goes on where no thread can be started.

use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

/// How many names may be looked up at once: a lookup may take as long as a server of names is away.
const BLOCKING_THREADS: usize = 8;

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
    runtime.spawn_blocking(|| ());
    Ok(runtime)
}
