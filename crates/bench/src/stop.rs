//! INT and TERM.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Takes both signals from now on, in a thread of its own: the first one calls this, a second one ends the
/// process. Before other threads are made.
///
/// # Errors
///
/// The system's.
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

/// Whether the program has been asked to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Becomes true with the first signal.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn on_signals() -> nix::Result<Self> {
        let stop = Self::default();
        let flag = Arc::clone(&stop.0);
        on_signals(move || flag.store(true, Ordering::Relaxed))?;
        Ok(stop)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
