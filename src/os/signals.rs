//! Signals, turned into what is wanted.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intention {
    /// To stop safely; the signal's name.
    Stop(&'static str),
    /// To read accounts and access again.
    Reload,
    /// To open the log files again, and reload.
    Reopen,
}

/// Blocks the signals that mean something, so that none of them can end the process before there
/// is somebody to take it. Threads and children made from now on inherit this.
///
/// # Errors
///
/// The system's.
pub fn block() -> io::Result<()> {
    Ok(meaningful().thread_block()?)
}

/// Undoes [`block`] for this thread.
///
/// # Errors
///
/// The system's.
pub fn unblock() -> io::Result<()> {
    Ok(meaningful().thread_unblock()?)
}

fn meaningful() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP].into_iter().collect()
}

/// The signals that arrive. Several of the same kind that wait count as one.
#[derive(Debug)]
pub struct Signals {
    term: Stream,
    int: Stream,
    usr1: Stream,
    hup: Stream,
}

impl Signals {
    /// Takes signals from now on, beginning with those that came while they were blocked. Needs
    /// the runtime.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn install() -> io::Result<Self> {
        let signals = Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
        };
        unblock()?;
        Ok(signals)
    }

    /// Waits for the next signal; stopping comes before everything else. Giving up the wait loses
    /// none.
    pub async fn next(&mut self) -> Intention {
        tokio::select! {
            biased;
            Some(()) = self.term.recv() => Intention::Stop("SIGTERM"),
            Some(()) = self.int.recv() => Intention::Stop("SIGINT"),
            Some(()) = self.hup.recv() => Intention::Reopen,
            Some(()) = self.usr1.recv() => Intention::Reload,
            // The streams end with the runtime, and then nobody waits.
            else => std::future::pending().await,
        }
    }
}
