//! The user and the niceness of the process.
#![allow(unsafe_code, reason = "no dependency has a safe wrapper of nice(2)")]

use std::ffi::CString;
use std::{fs, io};

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid, setuid,
};

/// The first port that every user can bind, if the system does not report it.
const USUAL_FIRST_FREE: u32 = 1024;

/// A user and group that the process can change to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name of the user, or its number if it has none.
    pub(crate) user: String,
    /// The name of the group, or its number if it has none.
    pub(crate) group: String,
    uid: Uid,
    gid: Gid,
    /// Whether the system knows the user and thus its other groups.
    is_known: bool,
}

impl Identity {
    /// Looks up a user and a group, each by name or number. An empty group stands for the user's own.
    ///
    /// # Errors
    ///
    /// A short reason.
    pub(crate) fn find(user: &str, group: &str) -> Result<Self, String> {
        let failed = |error: Errno| format!("cannot look up users and groups: {error}");
        let known = match user.parse().map(Uid::from_raw) {
            Ok(uid) => User::from_uid(uid).map_err(failed)?,
            Err(_) => User::from_name(user).map_err(failed)?,
        };
        let (uid, own_group) = match (&known, user.parse()) {
            (Some(known), _) => (known.uid, Some(known.gid)),
            (None, Ok(number)) => (Uid::from_raw(number), None),
            (None, Err(_)) => return Err(format!("no user has the name '{}'", user.escape_debug())),
        };
        let gid = match (group, group.parse(), own_group) {
            ("", _, Some(gid)) => gid,
            ("", _, None) => {
                return Err(format!("no user has the number {uid}: set Group as well"));
            }
            (_, Ok(number), _) => Gid::from_raw(number),
            (name, Err(_), _) => match Group::from_name(name).map_err(failed)? {
                Some(group) => group.gid,
                None => return Err(format!("no group has the name '{}'", name.escape_debug())),
            },
        };
        let group = Group::from_gid(gid).map_err(failed)?.map_or_else(|| gid.to_string(), |group| group.name);
        let is_known = known.is_some();
        Ok(Self { user: known.map_or_else(|| uid.to_string(), |user| user.name), group, uid, gid, is_known })
    }

    /// Returns the numbers of the user and the group.
    pub(crate) fn numbers(&self) -> (Uid, Gid) {
        (self.uid, self.gid)
    }

    /// Changes to this user irreversibly. The process must have a single thread.
    ///
    /// # Errors
    ///
    /// A system call fails, or the process could still become root again.
    pub(crate) fn assume(&self) -> io::Result<()> {
        if self.is_known {
            initgroups(&CString::new(self.user.as_str())?, self.gid)?;
        } else {
            setgroups(&[self.gid])?;
        }
        setresgid(self.gid, self.gid, self.gid)?;
        setresuid(self.uid, self.uid, self.uid)?;
        let (users, groups) = (getresuid()?, getresgid()?);
        let are_all = [users.real, users.effective, users.saved] == [self.uid; 3]
            && [groups.real, groups.effective, groups.saved] == [self.gid; 3];
        if !are_all || setuid(Uid::from_raw(0)).is_ok() {
            return Err(io::Error::other("the process could still become root again"));
        }
        Ok(())
    }
}

/// Whether only root can bind this port.
pub(crate) fn is_for_root(port: u16) -> bool {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first_free = first_free.ok().and_then(|text| text.trim().parse().ok());
    u32::from(port) < first_free.unwrap_or(USUAL_FIRST_FREE)
}

/// Raises the niceness by the increment; a negative one lowers it. Zero makes no system call.
///
/// # Errors
///
/// The system call fails, for example if the user has no right to lower the niceness.
pub(crate) fn nice(increment: i32) -> io::Result<()> {
    if increment == 0 {
        return Ok(());
    }
    // -1 is a valid new niceness as well as the sign of an error: only errno distinguishes them.
    Errno::clear();
    // SAFETY: takes a number and accesses no memory.
    let niceness = unsafe { libc::nice(increment) };
    match Errno::last() {
        error if niceness == -1 && error != Errno::UnknownErrno => Err(error.into()),
        _ => Ok(()),
    }
}
