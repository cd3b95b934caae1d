//! A process under ptrace, with all its threads: each system call and, where that is asked for, each instruction.
//!
//! strace counts the calls of each thread apart, and does not count instructions.

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

/// A line of a shell that stops itself and, continued, becomes the program that its arguments name.
///
/// The tracer takes hold of it meanwhile, so that not a single call of the program is missed.
pub(crate) const STOPPED: &str = "kill -STOP $$; exec \"$@\"";

/// A process that this thread traces. It is killed when this goes, and when this thread ends.
pub(crate) struct Traced {
    leader: Pid,
    end: Option<WaitStatus>,
    // Its end is learned by the tracer.
    _child: Child,
}

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// It is about to make this call.
    Entry(Call),
    /// It has made this call.
    Exit(Call),
    /// It has executed one instruction, or one that writes to a place that is watched.
    Step,
    /// It has been sent this signal.
    Signal(Signal),
    /// It is new, or has become another program.
    New,
}

/// How a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To its next system call.
    Call,
    /// By one instruction.
    Instruction,
    /// Not at all: the whole process is killed. A call that it was about to make is not made.
    Kill,
}

impl Traced {
    /// Whether the registers of this machine are known here. Says so when they are not.
    pub(crate) fn is_possible() -> bool {
        let known = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        if !known {
            println!("left out: system calls are not told apart on this architecture");
        }
        known
    }

    /// Takes hold of a command that runs [`STOPPED`], before it becomes the program.
    pub(crate) fn start(command: &mut Command) -> Self {
        // All threads of the process are waited for by the number of its group.
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

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        self.leader
    }

    /// Follows the process to its end, and asks at each stop how the thread is to go on. Returns how it ended.
    pub(crate) fn follow(&mut self, mut decide: impl FnMut(Pid, Stop) -> Next) -> WaitStatus {
        while self.end.is_none() {
            let status = match waitpid(Pid::from_raw(-self.leader.as_raw()), Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("no thread to wait for: {error}"),
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
            // It may have been killed meanwhile.
            assert!(matches!(resumed, Ok(()) | Err(Errno::ESRCH)), "{thread} does not go on: {resumed:?}");
        }
        self.end.unwrap()
    }

    /// The thread that has stopped, and why. What the caller need not know of is dealt with here.
    fn stop(&mut self, status: WaitStatus) -> Option<(Pid, Stop)> {
        match status {
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) => {
                if thread == self.leader {
                    self.end = Some(status);
                }
                None
            }
            // Either fails when it has been killed meanwhile.
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

    /// Has a thread that has stopped stop again behind each instruction that writes the byte at this place of a file
    /// which its process has mapped. Returns whether that is possible.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn watch(thread: Pid, file: &Path, place: u64) -> bool {
        // The first debug register is enabled, for writes of one byte.
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

    /// Not possible here.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn watch(_: Pid, _: &Path, _: u64) -> bool {
        false
    }

    /// The text at an address of the process, which must be able to be read.
    pub(crate) fn text(process: Pid, address: u64) -> OsString {
        // As far as the page goes, behind which there may be none.
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
                // It may have been killed meanwhile.
                (Err(Errno::ESRCH), _) => return OsString::new(),
                (Err(error), _) => panic!("the memory of {process} cannot be read: {error}"),
            }
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.end.is_none() {
            // It may have ended.
            let _ = kill(self.leader, Signal::SIGKILL);
            self.follow(|_, _| Next::Kill);
        }
    }
}

/// A system call, as the registers tell of it.
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

    /// The file that it is to open, if it is such a call.
    pub(crate) fn opens(&self, process: Pid) -> Option<PathBuf> {
        let address = match self.number {
            libc::SYS_openat | libc::SYS_openat2 => self.arguments[1],
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open | libc::SYS_creat => self.arguments[0],
            _ => return None,
        };
        Some(Traced::text(process, address).into())
    }

    /// The name that its thread is to have, if it is such a call.
    pub(crate) fn names_thread(&self, process: Pid) -> Option<OsString> {
        let sets = self.number == libc::SYS_prctl && self.arguments[0] == libc::PR_SET_NAME as u64;
        sets.then(|| Traced::text(process, self.arguments[1]))
    }

    /// Whether it has brought datagrams.
    pub(crate) fn has_received(&self) -> bool {
        let receives = [libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg].contains(&self.number);
        receives && self.result > 0
    }

    /// Whether it names a file or uses a descriptor of one, as `%file` and `%desc` of strace.
    ///
    /// Left out are the calls that wait (`epoll_wait`, `poll`, `futex`) and those on sockets: how often they
    /// are made depends on the time that passes and on the requests that come, so that no number would be the
    /// last one; and they change no file.
    pub(crate) fn uses_files(&self) -> bool {
        if self.number == libc::SYS_mmap {
            // Of a file, not of memory alone; the kernel takes the number as an int.
            return self.arguments[4] as u32 != u32::MAX;
        }
        FILES.contains(&self.number) || OLD_FILES.contains(&self.number)
    }
}

/// The calls on files that every architecture has.
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

/// Those that only older ones have besides.
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
