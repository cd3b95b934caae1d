//! A process under ptrace with all its threads, stopped at each system call and, on request, at each instruction.
//!
//! strace cannot do this: it counts the calls of each thread separately, and does not count instructions.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A shell script that stops itself and, when continued, executes the program in its arguments.
///
/// The tracer attaches while it is stopped, so that it sees every call of the program.
pub(crate) const STOPPED: &str = "kill -STOP $$; exec \"$@\"";

/// A process that this thread traces. It is killed on drop, and when this thread exits.
pub(crate) struct Traced {
    leader: Pid,
    end: Option<WaitStatus>,
    // Not waited for here: the tracer gets the exit status.
    _child: Child,
}

/// The reason why a thread has stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// The thread is about to make this call.
    Entry(Call),
    /// The thread has made this call.
    Exit(Call),
    /// The thread has executed one instruction, or written to a watched byte.
    Step,
    /// The thread has been sent this signal.
    Signal(Signal),
    /// The thread has just been created, or has executed another program.
    New,
}

/// The way in which a stopped thread continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Until the next system call.
    Call,
    /// For one instruction.
    Instruction,
    /// Not at all: the whole process is killed, before a call that it was about to make.
    Kill,
}

impl Traced {
    /// Whether this architecture is supported. Prints a line if it is not.
    pub(crate) fn is_possible() -> bool {
        let known = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        if !known {
            println!("skipped: tracing is not supported on this architecture");
        }
        known
    }

    /// Starts a command that runs [`STOPPED`], and attaches before it executes the program.
    pub(crate) fn start(command: &mut Command) -> Self {
        // With its own process group, all threads can be waited for by the group's number.
        let child = command.process_group(0).spawn().unwrap();
        let leader = Pid::from_raw(child.id().try_into().unwrap());
        assert_eq!(
            waitpid(leader, Some(WaitPidFlag::WUNTRACED)),
            Ok(WaitStatus::Stopped(leader, Signal::SIGSTOP))
        );
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACESYSGOOD;
        ptrace::seize(leader, options).unwrap();
        kill(leader, Signal::SIGCONT).unwrap();
        Self { leader, end: None, _child: child }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.leader
    }

    /// Traces the process until it exits, and returns its status. At each stop `decide` returns how the thread
    /// continues.
    pub(crate) fn follow(&mut self, mut decide: impl FnMut(Pid, Stop) -> Next) -> WaitStatus {
        while self.end.is_none() {
            let status = match waitpid(Pid::from_raw(-self.leader.as_raw()), Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("cannot wait for the traced process: {error}"),
            };
            let Some((thread, stop)) = self.stop(status) else { continue };
            let next = decide(thread, stop);
            let signal = match stop {
                Stop::Signal(signal) => Some(signal),
                _ => None,
            };
            let resumed = match next {
                Next::Call => ptrace::syscall(thread, signal),
                Next::Instruction => ptrace::step(thread, signal),
                Next::Kill => kill(self.leader, Signal::SIGKILL),
            };
            // ESRCH: the process has been killed in the meantime.
            assert!(matches!(resumed, Ok(()) | Err(Errno::ESRCH)), "cannot resume {thread}: {resumed:?}");
        }
        self.end.unwrap()
    }

    /// Returns the stopped thread and the reason, or none for events that callers of [`Self::follow`] do not see.
    fn stop(&mut self, status: WaitStatus) -> Option<(Pid, Stop)> {
        match status {
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) => {
                if thread == self.leader {
                    self.end = Some(status);
                }
                None
            }
            // Both fail if the process has been killed in the meantime.
            WaitStatus::PtraceSyscall(thread) => {
                let info = ptrace::syscall_info(thread).ok()?;
                let call = Call::of(thread)?;
                let is_entry = info.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
                Some((thread, if is_entry { Stop::Entry(call) } else { Stop::Exit(call) }))
            }
            WaitStatus::PtraceEvent(thread, ..) => Some((thread, Stop::New)),
            WaitStatus::Stopped(thread, Signal::SIGTRAP) => Some((thread, Stop::Step)),
            WaitStatus::Stopped(thread, signal) => Some((thread, Stop::Signal(signal))),
            _ => None,
        }
    }

    /// Makes a stopped thread stop after each instruction that writes the byte at this offset of a file that its
    /// process has mapped. Returns whether that is possible.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn watch(thread: Pid, file: &Path, place: u64) -> bool {
        // Enables the first debug register for writes of one byte.
        const ENABLED: i64 = 1 | 1 << 16;
        let maps = std::fs::read_to_string(format!("/proc/{thread}/maps")).unwrap_or_default();
        let mapping = maps.lines().find(|line| line.ends_with(file.to_str().unwrap()));
        let start = mapping.and_then(|line| i64::from_str_radix(line.split_once('-')?.0, 16).ok());
        let Some(start) = start else { return false };
        let register = |number: usize| {
            (std::mem::offset_of!(libc::user, u_debugreg) + 8 * number) as ptrace::AddressType
        };
        ptrace::write_user(thread, register(0), start + place.cast_signed())
            .and_then(|()| ptrace::write_user(thread, register(7), ENABLED))
            .is_ok()
    }

    /// Not supported on this architecture.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn watch(_: Pid, _: &Path, _: u64) -> bool {
        false
    }

    /// Reads the text at an address of the process, which must be readable.
    pub(crate) fn text(process: Pid, address: u64) -> OsString {
        // Reads up to the end of the page, because the next one may not be mapped.
        let (mut text, page, mut base) = (Vec::new(), 4096, usize::try_from(address).unwrap());
        loop {
            let mut part = vec![0; page - base % page];
            let remote = [RemoteIoVec { base, len: part.len() }];
            let read = process_vm_readv(process, &mut [IoSliceMut::new(&mut part)], &remote);
            match (read, part.iter().position(|byte| *byte == 0)) {
                (Ok(_), Some(end)) => {
                    text.extend_from_slice(&part[..end]);
                    return OsString::from_vec(text);
                }
                (Ok(read), None) => {
                    text.extend_from_slice(&part[..read]);
                    base += read;
                }
                // The process has been killed in the meantime.
                (Err(Errno::ESRCH), _) => return OsString::new(),
                (Err(error), _) => panic!("cannot read the memory of {process}: {error}"),
            }
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.end.is_none() {
            // The process may have exited.
            let _ = kill(self.leader, Signal::SIGKILL);
            self.follow(|_, _| Next::Kill);
        }
    }
}

/// A system call, as found in the registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    number: i64,
    arguments: [u64; 6],
    result: i64,
}

impl Call {
    #[cfg(target_arch = "x86_64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?;
        Some(Self {
            number: registers.orig_rax.cast_signed(),
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
            result: registers.rax.cast_signed(),
        })
    }

    #[cfg(target_arch = "aarch64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?.regs;
        Some(Self {
            number: registers[8].cast_signed(),
            arguments: std::array::from_fn(|index| registers[index]),
            result: registers[0].cast_signed(),
        })
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn of(_: Pid) -> Option<Self> {
        None
    }

    /// Returns the path that the call opens, if it opens one.
    pub(crate) fn opens(&self, process: Pid) -> Option<PathBuf> {
        let address = match self.number {
            libc::SYS_openat | libc::SYS_openat2 => self.arguments[1],
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open | libc::SYS_creat => self.arguments[0],
            _ => return None,
        };
        Some(Traced::text(process, address).into())
    }

    /// Returns the name that the call gives its thread, if it sets one.
    pub(crate) fn names_thread(&self, process: Pid) -> Option<OsString> {
        let sets = self.number == libc::SYS_prctl && self.arguments[0] == libc::PR_SET_NAME as u64;
        sets.then(|| Traced::text(process, self.arguments[1]))
    }

    /// Whether the call has received datagrams.
    pub(crate) fn has_received(&self) -> bool {
        let receives = [libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg].contains(&self.number);
        receives && self.result > 0
    }

    /// Whether the call takes a path or a descriptor of a file, like `%file` and `%desc` of strace.
    ///
    /// Calls that wait (`epoll_wait`, `poll`, `futex`) and calls on sockets are not included: their number depends on
    /// time and on requests, and they change no file.
    pub(crate) fn uses_files(&self) -> bool {
        if self.number == libc::SYS_mmap {
            // Mappings of a file, not of anonymous memory (-1). The kernel takes the descriptor as an int.
            return self.arguments[4] as u32 != u32::MAX;
        }
        FILES.contains(&self.number) || OLD_FILES.contains(&self.number)
    }
}

/// The calls on files that all architectures have.
const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_ioctl,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_msync,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_setxattr,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The further calls on files that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[i64] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_getdents,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_unlink,
    libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[i64] = &[];
