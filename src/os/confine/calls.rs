//! Restriction of system calls, by seccomp.
//!
//! The list names the forbidden calls, not the allowed ones: the calls that the C library makes to resolve a name or
//! take a lock change between versions, and a server that fails after a system update is worse than one more call for
//! an intruder. Forbidden calls fail with EPERM, which callers can handle, and are logged by the kernel.
#![allow(unsafe_code, reason = "seccompiler cannot request logging by the kernel")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::NotConfined;

/// Calls that a server never needs: running programs, access to the memory of other processes, mounts and namespaces,
/// changes of users, kernel settings, and sockets that listen. `accept4` has a rule of its own.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // io_uring bypasses this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_listen,
    libc::SYS_accept,
];

#[cfg(target_arch = "x86_64")]
const FORBIDDEN_ON_THIS_ARCH: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_ON_THIS_ARCH: &[libc::c_long] = &[];

/// The allowed socket families: those of requests, of databases, and of name resolution in the C library.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The bit of x32 system calls. The x32 ABI uses the same filter; most of its numbers are those of x86-64 with this
/// bit.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;
/// x32 calls that have numbers of their own: execve, ptrace, kexec_load, process_vm_readv, process_vm_writev, execveat.
#[cfg(target_arch = "x86_64")]
const ONLY_X32: [libc::c_long; 6] = [520, 521, 528, 539, 540, 545];

/// A path that exists if the kernel supports seccomp.
const SUPPORTED: &str = "/proc/sys/kernel/seccomp";

/// Applies the filters to this thread. It and its threads accept connections on these descriptors only.
///
/// # Errors
///
/// The kernel or this architecture is not supported, or the kernel refuses the filters.
pub(super) fn restrict(accepting: &[RawFd]) -> Result<(), NotConfined> {
    let unsupported = |why: &str| NotConfined::Unsupported(why.to_owned());
    let failed = |error: &dyn Display| NotConfined::Failed(error.to_string());
    let machine: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|_| unsupported("not supported on this architecture"))?;
    let (forbidden, missing) = programs(machine, accepting).map_err(|error| failed(&error))?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed(&error))?;
    // The second filter applies to every new thread: no logging for that.
    let installed = install(&forbidden, libc::SECCOMP_FILTER_FLAG_LOG)
        .or_else(|_| install(&forbidden, 0))
        .and_then(|()| install(&missing, 0));
    installed.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS | Errno::EINVAL) if !Path::new(SUPPORTED).exists() => {
            unsupported("this kernel does not support seccomp")
        }
        _ => failed(&error),
    })
}

/// Returns the filter of calls that fail with EPERM, and that of calls that fail with ENOSYS.
fn programs(
    machine: TargetArch,
    accepting: &[RawFd],
) -> Result<(BpfProgram, BpfProgram), seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().chain(FORBIDDEN_ON_THIS_ARCH).map(|call| (*call, Vec::new())).collect();
    let condition = |argument, operator, value: libc::c_int| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value.unsigned_abs()))
    };
    let other_family: Result<Vec<_>, _> =
        FAMILIES.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family)).collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_family?)?]);
    // The filter sees the number of a descriptor, not the socket. A number that is used again after its listener has been
    // closed is of no use: `listen` is forbidden, and any other socket refuses `accept4`. Copies of a listener under
    // other numbers do not accept.
    let other_descriptor: Result<Vec<_>, _> =
        accepting.iter().map(|descriptor| condition(0, SeccompCmpOp::Ne, *descriptor)).collect();
    let other_descriptor = other_descriptor?;
    let when = if accepting.is_empty() { Vec::new() } else { vec![SeccompRule::new(other_descriptor)?] };
    rules.insert(libc::SYS_accept4, when);
    let has_all = |argument, bits: libc::c_int| {
        SeccompRule::new(vec![condition(
            argument,
            SeccompCmpOp::MaskedEq(u64::from(bits.unsigned_abs())),
            bits,
        )?])
    };
    // New processes; new threads remain possible.
    let process = condition(0, SeccompCmpOp::MaskedEq(u64::from(libc::CLONE_THREAD.unsigned_abs())), 0);
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process?])?]);
    // Memory that is writable and executable.
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        rules.insert(call, vec![has_all(2, libc::PROT_WRITE | libc::PROT_EXEC)?]);
    }
    #[cfg(target_arch = "x86_64")]
    {
        let same: Vec<_> = rules.iter().map(|(call, when)| (X32 | *call, when.clone())).collect();
        rules.extend(same);
        rules.extend(ONLY_X32.map(|call| (X32 | call, Vec::new())));
    }
    let refuse = |error: Errno| SeccompAction::Errno((error as i32).unsigned_abs());
    let forbidden = SeccompFilter::new(rules, SeccompAction::Allow, refuse(Errno::EPERM), machine)?;
    // No filter sees its flags, which are passed in memory. The C library falls back to clone.
    let newer = [(libc::SYS_clone3, Vec::new())].into();
    let missing = SeccompFilter::new(newer, SeccompAction::Allow, refuse(Errno::ENOSYS), machine)?;
    Ok((forbidden.try_into()?, missing.try_into()?))
}

fn install(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<()> {
    /// `struct sock_fprog` in linux/filter.h.
    #[repr(C)]
    struct FilterProgram {
        length: libc::c_ushort,
        filter: *const seccompiler::sock_filter,
    }
    let length = program.len().try_into().map_err(io::Error::other)?;
    let program = FilterProgram { length, filter: program.as_ptr() };
    // SAFETY: the kernel copies as many instructions as `length` says, and writes nothing.
    let outcome =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    /// Runs a test in a new thread to which the filters apply.
    fn confined<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
        confined_but_accepting(&[], test)
    }

    fn confined_but_accepting<T: Send + 'static>(
        accepting: &[RawFd],
        test: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let accepting = accepting.to_vec();
        thread::spawn(move || {
            restrict(&accepting).unwrap();
            test()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn programs_and_namespaces_are_refused() {
        assert!(Command::new("/bin/true").status().unwrap().success());
        let error = confined(|| Command::new("/bin/true").status().unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let refused = confined(|| {
            [
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER),
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS),
                nix::unistd::chroot("/"),
            ]
        });
        assert_eq!(refused, [Err(Errno::EPERM); 3]);
    }

    #[test]
    fn only_needed_socket_families_are_allowed_and_no_socket_can_listen() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let family =
            |family, kind| confined(move || socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(drop));
        for allowed in [AddressFamily::Unix, AddressFamily::Inet, AddressFamily::Inet6] {
            assert_eq!(family(allowed, SockType::Datagram), Ok(()));
            assert_eq!(family(allowed, SockType::Stream), Ok(()));
        }
        assert_eq!(family(AddressFamily::Netlink, SockType::Raw), Ok(()));
        assert_eq!(family(AddressFamily::Packet, SockType::Raw), Err(Errno::EPERM));
        assert_eq!(family(AddressFamily::Alg, SockType::SeqPacket), Err(Errno::EPERM));
        let listening = confined(|| std::net::TcpListener::bind("127.0.0.1:0").map(drop));
        assert_eq!(listening.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn connections_are_accepted_on_the_given_descriptors_only() {
        use std::net::{TcpListener, TcpStream};
        use std::os::fd::AsRawFd;
        use std::sync::Arc;

        let listeners = Arc::new([(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()));
        let _peers: Vec<TcpStream> = listeners
            .iter()
            .flat_map(|listener| {
                [(); 2].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap())
            })
            .collect();
        let outcomes = |count: usize| {
            let accepting: Vec<RawFd> = listeners[..count].iter().map(AsRawFd::as_raw_fd).collect();
            let listeners = Arc::clone(&listeners);
            confined_but_accepting(&accepting, move || {
                let accept = |listener: &TcpListener| {
                    listener.accept().map(drop).map_err(|error| error.raw_os_error())
                };
                (listeners.each_ref().map(accept), accept(&listeners[0].try_clone().unwrap()))
            })
        };
        let refused = Err(Some(libc::EPERM));
        // Also when the peer waits already: a copy of a listener is refused.
        assert_eq!(outcomes(2), ([Ok(()), Ok(()), refused], refused));
        assert_eq!(outcomes(1), ([Ok(()), refused, refused], refused));
        assert_eq!(outcomes(0), ([refused; 3], refused));
        let accepting = listeners[0].as_raw_fd();
        let listening = confined_but_accepting(&[accepting], || TcpListener::bind("127.0.0.1:0").map(drop));
        assert_eq!(listening.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn threads_and_files_and_name_resolution_still_work() {
        use std::net::ToSocketAddrs;
        confined(|| {
            thread::spawn(|| std::fs::read("/proc/self/status").unwrap()).join().unwrap();
            assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
        });
    }

    #[test]
    fn filters_can_be_compiled_for_every_supported_architecture() {
        for machine in [TargetArch::x86_64, TargetArch::aarch64] {
            let (forbidden, missing) = programs(machine, &[3, 4]).unwrap();
            assert!(forbidden.len() > 100 && !missing.is_empty());
        }
    }
}
