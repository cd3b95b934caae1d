//! Signals, turned into what is wanted.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
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

/// Waits so long for a signal to stop, which must be blocked, and takes it; returns its name. Works without a
/// runtime. Where the system cannot tell of signals this way, it only waits.
pub fn stopped_within(pause: Duration) -> Option<&'static str> {
    let stops: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    let Ok(signals) = SignalFd::with_flags(&stops, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) else {
        std::thread::sleep(pause);
        return None;
    };
    let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
    // Interrupted or not, it is looked at what has come.
    let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
    let signal = signals.read_signal().ok().flatten()?;
    Some(if signal.ssi_signo == Signal::SIGINT as u32 { "SIGINT" } else { "SIGTERM" })
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
