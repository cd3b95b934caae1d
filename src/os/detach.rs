//! Going into the background, and telling the process in the foreground how it went.
#![allow(unsafe_code, reason = "fork is unsafe, and so is closing what other code opened")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::signals;

const READY: u8 = b'r';
const FAILED: u8 = b'f';

/// The daemon's side of a detaching: what the process that was started still waits to hear.
#[derive(Debug)]
pub(crate) struct Readiness {
    pipe: File,
    output: File,
}

impl Readiness {
    /// Lets the terminal go, with stdout and stderr to the file from now on, and lets the process
    /// that was started end with success.
    ///
    /// # Errors
    ///
    /// The system's. The caller's descriptors may then still be in use.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        // Before the word is given: a caller that waits for the end of our output, as ssh does, must
        // not find us still holding it.
        dup2_stdout(self.output.as_fd())?;
        dup2_stderr(self.output.as_fd())?;
        self.tell(READY)
    }

    /// Lets the process that was started end with failure. The reason has been written to stderr.
    pub(crate) fn failed(mut self) {
        // The process that was started may be gone.
        let _ = self.tell(FAILED);
    }

    fn tell(&mut self, word: u8) -> io::Result<()> {
        match self.pipe.write_all(&[word]) {
            // The process that was started has been killed, which is no reason to stop.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    }
}

/// Goes into the background: a new session without a terminal, in `/`, without stdin and without
/// any inherited descriptor but stdout, stderr and `keep`. Returns in the daemon only, and must be
/// called before there are threads. The process that was started waits, and ends when the daemon
/// has told it how it went.
///
/// # Errors
///
/// The system's, in whichever process met it; the other one ends by itself.
pub(crate) fn detach(output: File, keep: &[RawFd]) -> io::Result<Readiness> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is only this thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            // It ends at once, having forked again.
            while waitpid(child, None) == Err(Errno::EINTR) {}
            // A signal to stop that came before the fork is meant for the daemon, which is in that child's group.
            if signals::stopped_within(Duration::ZERO).is_some() {
                let _ = killpg(child, Signal::SIGTERM);
            }
            wait_for_word(reader);
        }
        ForkResult::Child => {
            drop(reader);
            let mut readiness = Readiness { pipe: File::from(writer), output };
            match leave(&readiness, keep) {
                Ok(()) => Ok(readiness),
                Err(error) => {
                    let _ = readiness.tell(FAILED);
                    Err(error)
                }
            }
        }
    }
}

fn leave(readiness: &Readiness, keep: &[RawFd]) -> io::Result<()> {
    setsid()?;
    // A session's leader could get a terminal again by opening one, its child cannot.
    // SAFETY: there is only this thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        exit(0);
    }
    chdir("/")?;
    dup2_stdin(File::open("/dev/null")?)?;
    let mut kept: Vec<RawFd> = keep.to_vec();
    kept.extend([0, 1, 2, readiness.pipe.as_raw_fd(), readiness.output.as_raw_fd()]);
    close_all_but(kept)
}

/// Closes every descriptor that is not in the list.
fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    kept.push(RawFd::MAX);
    for pair in kept.windows(2) {
        let (first, last) = (pair[0] + 1, pair[1] - 1);
        if first > last {
            continue;
        }
        // SAFETY: these were inherited, or belong to nothing that is used any more: the logs, the
        // output and the pipe are all that has been opened, and they are kept.
        if unsafe { libc::close_range(first.unsigned_abs(), last.unsigned_abs(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Ends this process as the daemon says.
fn wait_for_word(pipe: OwnedFd) -> ! {
    // An impatient person may interrupt the waiting; the daemon is not touched by that. Other signals mean nothing
    // to this process.
    let _ = signals::unblock_stops();
    let mut word = [0];
    match File::from(pipe).read_exact(&mut word) {
        Ok(()) if word[0] == READY => exit(0),
        Ok(()) => exit(1),
        Err(_) => {
            let _ = writeln!(io::stderr(), "pyzord: error: the daemon died while it was starting");
            exit(1);
        }
    }
}

/// Ends this process without what the daemon is to do at its end.
fn exit(code: i32) -> ! {
    // SAFETY: ends the process and touches no memory of it.
    unsafe { libc::_exit(code) }
}
