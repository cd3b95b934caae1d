//! Signals, turned into what is wanted, and those that mean nothing.
#![allow(unsafe_code, reason = "no safe wrapper ignores a signal, real-time signals least of all")]

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intention {
    /// To stop safely; the signal's name.
    Stop(&'static str),
    /// To read accounts and access again.
    Reload,
    /// To open the log files again, and reload.
    Reopen,
}

/// Signals that ask the server for nothing and whose default action ends a process.
const MEANINGLESS: [libc::c_int; 7] = [
    libc::SIGPIPE,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    // Without it a write beyond a limit of file sizes fails with EFBIG.
    libc::SIGXFSZ,
];

/// Ignores every signal that asks the server for nothing and would end it. What reports a fault of the
/// process, or that a limit of processor time is exceeded, keeps its default action.
pub(crate) fn ignore_meaningless() {
    MEANINGLESS.into_iter().for_each(ignore);
    #[cfg(target_os = "linux")]
    {
        ignore(libc::SIGPWR);
        #[cfg(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64")))]
        ignore(libc::SIGSTKFLT);
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).for_each(ignore);
    }
}

/// Lets a write beyond a limit of file sizes fail with EFBIG rather than end the process.
pub(crate) fn ignore_file_size_limit() {
    ignore(libc::SIGXFSZ);
}

fn ignore(signal: libc::c_int) {
    // SAFETY: installs no handler; the call fails only for a number that is no signal.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks the signals that mean something, so that none of them can end the process before there
/// is code to take it. Threads and children made from now on inherit this.
///
/// # Errors
///
/// The system's.
pub(crate) fn block() -> io::Result<()> {
    Ok(meaningful().thread_block()?)
}

/// Lets the signals to stop end this process again, and leaves the others blocked.
///
/// # Errors
///
/// The system's.
pub(crate) fn unblock_stops() -> io::Result<()> {
    let stops: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    Ok(stops.thread_unblock()?)
}

/// Undoes [`block`] for this thread.
///
/// # Errors
///
/// The system's.
pub(crate) fn unblock() -> io::Result<()> {
    Ok(meaningful().thread_unblock()?)
}

/// Waits so long for a signal to stop, and returns its name as soon as there is one. Takes the signals that
/// [`block`] blocks; those that ask for a reload are dropped, so this is for a start that has read nothing
/// yet that they could mean. Works without a runtime. Where the system cannot report signals this way, it
/// only waits.
pub(crate) fn stopped_within(pause: Duration) -> Option<&'static str> {
    let deadline = Instant::now() + pause;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let Ok(signals) = SignalFd::with_flags(&meaningful(), flags) else {
        std::thread::sleep(pause);
        return None;
    };
    loop {
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGTERM) => return Some("SIGTERM"),
                Ok(Signal::SIGINT) => return Some("SIGINT"),
                _ => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // Rounded up, so that the rest of a millisecond is not spent in a loop.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // Interrupted or not: the signals that have come are read next.
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn meaningful() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP].into_iter().collect()
}

/// The signals that ask a program to stop, as they arrive.
#[derive(Debug)]
pub(crate) struct StopSignals {
    term: Stream,
    int: Stream,
}

impl StopSignals {
    /// Takes both signals from now on. Needs the runtime.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal, and returns its name. Giving up the wait loses none.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            Some(()) = self.term.recv() => "SIGTERM",
            Some(()) = self.int.recv() => "SIGINT",
            // The streams end with the runtime, and nothing waits then.
            else => std::future::pending().await,
        }
    }
}

/// The signals that arrive. Several of the same kind that wait count as one.
#[derive(Debug)]
pub(crate) struct Signals {
    stops: StopSignals,
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
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            stops: StopSignals::install()?,
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
        };
        unblock()?;
        Ok(signals)
    }

    /// Waits for the next signal; stopping comes before everything else. Giving up the wait loses
    /// none.
    pub(crate) async fn next(&mut self) -> Intention {
        tokio::select! {
            biased;
            name = self.stops.next() => Intention::Stop(name),
            Some(()) = self.hup.recv() => Intention::Reopen,
            Some(()) = self.usr1.recv() => Intention::Reload,
        }
    }
}
