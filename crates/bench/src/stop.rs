//! Stopping on SIGINT and SIGTERM.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Handles SIGINT and SIGTERM in a separate thread: the first signal calls `first`, the second one ends the process.
/// Must be called before other threads are started, because they inherit the signal mask.
///
/// # Errors
///
/// Fails if the signals cannot be blocked.
pub(super) fn on_signals(first: impl FnOnce() + Send + 'static) -> nix::Result<()> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            first();
        }
        if let Ok(signal) = signals.wait() {
            process::exit(128 + signal as i32);
        }
    });
    Ok(())
}

/// A flag that is set by the first signal.
#[derive(Clone, Debug, Default)]
pub(super) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Creates the flag and handles the signals.
    ///
    /// # Errors
    ///
    /// Fails if the signals cannot be blocked.
    pub(super) fn on_signals() -> nix::Result<Self> {
        let stop = Self::default();
        let flag = Arc::clone(&stop.0);
        on_signals(move || flag.store(true, Ordering::Relaxed))?;
        Ok(stop)
    }

    pub(super) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
