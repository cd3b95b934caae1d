//! Detaching: going into the background, and reporting the outcome to the process in the foreground.
#![allow(unsafe_code, reason = "fork is unsafe, and so is closing descriptors of other code")]

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

/// The exit code of the process in the foreground if the daemon cannot be started, or dies.
const FAILED: u8 = 1;

/// The daemon's side of a detach, by which it reports to the process in the foreground.
#[derive(Debug)]
pub(crate) struct Readiness {
    pipe: File,
    output: File,
}

impl Readiness {
    /// Redirects stdout and stderr to the output file, and makes the process in the foreground exit with success.
    ///
    /// # Errors
    ///
    /// A system call fails. The descriptors of the caller may still be in use then.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        // Before the report is sent: a caller such as ssh waits until no process holds its output any more.
        dup2_stdout(self.output.as_fd())?;
        dup2_stderr(self.output.as_fd())?;
        self.send(0)
    }

    /// Makes the process in the foreground exit with this code. The reason must have been written to stderr.
    pub(crate) fn failed(mut self, code: u8) {
        // The process in the foreground may have ended.
        let _ = self.send(code);
    }

    /// Reports the exit code of the process in the foreground.
    fn send(&mut self, code: u8) -> io::Result<()> {
        match self.pipe.write_all(&[code]) {
            // The process in the foreground has been killed, which is no reason to stop.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    }
}

/// Goes into the background: a new session without a terminal, in `/`, without stdin, and without inherited
/// descriptors except stdout, stderr and `keep`. Returns in the daemon only: the process in the foreground waits for
/// the daemon's report and exits. Must be called while the process has a single thread.
///
/// # Errors
///
/// A system call fails. The error is returned in the process that made the call; the other process exits.
pub(crate) fn detach(output: File, keep: &[RawFd]) -> io::Result<Readiness> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is only this thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            // It forks again and exits at once.
            while waitpid(child, None) == Err(Errno::EINTR) {}
            // A signal to stop that came before the fork is meant for the daemon, which is in the child's group.
            if signals::stopped_within(Duration::ZERO).is_some() {
                let _ = killpg(child, Signal::SIGTERM);
            }
            wait_for_code(reader);
        }
        ForkResult::Child => {
            drop(reader);
            let mut readiness = Readiness { pipe: File::from(writer), output };
            match leave(&readiness, keep) {
                Ok(()) => Ok(readiness),
                Err(error) => {
                    let _ = readiness.send(FAILED);
                    Err(error)
                }
            }
        }
    }
}

fn leave(readiness: &Readiness, keep: &[RawFd]) -> io::Result<()> {
    setsid()?;
    // A session leader would get a terminal by opening one, its child does not.
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

/// Closes all descriptors that are not in the list.
fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    kept.push(RawFd::MAX);
    for pair in kept.windows(2) {
        let (first, last) = (pair[0] + 1, pair[1] - 1);
        if first > last {
            continue;
        }
        // SAFETY: the descriptors in use (logs, socket, output, pipe) are kept. All others were inherited, or are not
        // used any more.
        if unsafe { libc::close_range(first.unsigned_abs(), last.unsigned_abs(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits for the report of the daemon and exits accordingly.
fn wait_for_code(pipe: OwnedFd) -> ! {
    // The wait can be interrupted from the terminal, without effect on the daemon. Other signals have no meaning here.
    let _ = signals::unblock_stops();
    let mut code = [0];
    match File::from(pipe).read_exact(&mut code) {
        Ok(()) => exit(code[0].into()),
        Err(_) => {
            let _ =
                writeln!(io::stderr(), "pyzord: error: the server process died while starting: see its log");
            exit(FAILED.into());
        }
    }
}

/// Exits without running any exit handler or destructor.
fn exit(code: i32) -> ! {
    // SAFETY: exits and accesses no memory of the process.
    unsafe { libc::_exit(code) }
}
