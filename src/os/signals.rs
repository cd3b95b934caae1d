//! Signals: turned into intentions, blocked or ignored.
#![allow(unsafe_code, reason = "no dependency safely ignores signals, including real-time signals")]

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intention {
    /// Stop safely; the name of the signal.
    Stop(&'static str),
    /// Reload accounts and access rules.
    Reload,
    /// Reopen the log files, and reload.
    Reopen,
}

/// Signals that have no meaning to the server, and whose default action ends a process.
const MEANINGLESS: [libc::c_int; 7] = [
    libc::SIGPIPE,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    // If it is ignored, a write beyond the file size limit fails with EFBIG.
    libc::SIGXFSZ,
];

/// Ignores every signal that has no meaning to the server and would end it. Signals that report a fault of the process
/// or an exceeded CPU time limit keep their default action.
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

/// Makes a write beyond the file size limit fail with EFBIG rather than end the process.
pub(crate) fn ignore_file_size_limit() {
    ignore(libc::SIGXFSZ);
}

fn ignore(signal: libc::c_int) {
    // SAFETY: installs no handler; the call fails only for an invalid signal number.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks the signals that have a meaning, so that none ends the process before the server takes them. Threads and
/// children that are created from now on inherit this.
///
/// # Errors
///
/// The system call fails.
pub(crate) fn block() -> io::Result<()> {
    Ok(meaningful().thread_block()?)
}

/// Unblocks the signals to stop, so that they end this process, and leaves the others blocked.
///
/// # Errors
///
/// The system call fails.
pub(crate) fn unblock_stops() -> io::Result<()> {
    let stops: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    Ok(stops.thread_unblock()?)
}

/// Undoes [`block`] for this thread.
///
/// # Errors
///
/// The system call fails.
pub(crate) fn unblock() -> io::Result<()> {
    Ok(meaningful().thread_unblock()?)
}

/// Waits at most this long for a signal to stop, and returns its name. Takes all signals that [`block`] blocks, and
/// drops those that request a reload: call it only while nothing has been loaded that they could concern. Works
/// without a runtime. If the system does not support signalfd, it only waits.
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
        // Rounded up, to avoid a busy loop in the last millisecond.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // Interrupted or not: pending signals are read next.
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn meaningful() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP].into_iter().collect()
}

/// Streams of the signals to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    term: Stream,
    int: Stream,
}

impl StopSignals {
    /// Takes both signals from now on. Requires the runtime.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and returns its name. Cancel safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            Some(()) = self.term.recv() => "SIGTERM",
            Some(()) = self.int.recv() => "SIGINT",
            // Unreachable in practice: the streams end with the runtime.
            else => std::future::pending().await,
        }
    }
}

/// Streams of all signals that have a meaning. Pending signals of one kind count as one.
#[derive(Debug)]
pub(crate) struct Signals {
    stops: StopSignals,
    usr1: Stream,
    hup: Stream,
}

impl Signals {
    /// Takes signals from now on, beginning with those that are pending. Requires the runtime.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            stops: StopSignals::install()?,
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
        };
        unblock()?;
        Ok(signals)
    }

    /// Waits for the next signal; a signal to stop takes precedence. Cancel safe.
    pub(crate) async fn next(&mut self) -> Intention {
        tokio::select! {
            biased;
            name = self.stops.next() => Intention::Stop(name),
            Some(()) = self.hup.recv() => Intention::Reopen,
            Some(()) = self.usr1.recv() => Intention::Reload,
        }
    }
}
