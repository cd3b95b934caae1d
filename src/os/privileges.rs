//! Which user the process is, and how much it wants to be preferred.
#![allow(unsafe_code, reason = "no safe wrapper of nice(2) is among the dependencies")]

use std::ffi::CString;
use std::{fs, io};

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid, setuid,
};

/// The first port that every user can bind, where the system does not say it.
const USUAL_FIRST_FREE: u32 = 1024;

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name, or the number where there is none.
    pub(crate) user: String,
    /// The group's name, or its number where there is none.
    pub(crate) group: String,
    uid: Uid,
    gid: Gid,
    /// Whether the system knows the user, and so of which other groups he is.
    is_known: bool,
}

impl Identity {
    /// Looks up a user and a group, each by name or number; without a group the user's own.
    ///
    /// # Errors
    ///
    /// What is wrong, in a few words.
    pub(crate) fn find(user: &str, group: &str) -> Result<Self, String> {
        let failed = |error: Errno| format!("the system's users cannot be looked up: {error}");
        let known = match user.parse().map(Uid::from_raw) {
            Ok(uid) => User::from_uid(uid).map_err(failed)?,
            Err(_) => User::from_name(user).map_err(failed)?,
        };
        let (uid, own_group) = match (&known, user.parse()) {
            (Some(known), _) => (known.uid, Some(known.gid)),
            (None, Ok(number)) => (Uid::from_raw(number), None),
            (None, Err(_)) => return Err(format!("there is no user '{}'", user.escape_debug())),
        };
        let gid = match (group, group.parse(), own_group) {
            ("", _, Some(gid)) => gid,
            ("", _, None) => {
                return Err(format!("the system has no user of the number {uid}, so that Group is needed"));
            }
            (_, Ok(number), _) => Gid::from_raw(number),
            (name, Err(_), _) => match Group::from_name(name).map_err(failed)? {
                Some(group) => group.gid,
                None => return Err(format!("there is no group '{}'", name.escape_debug())),
            },
        };
        let group = Group::from_gid(gid).map_err(failed)?.map_or_else(|| gid.to_string(), |group| group.name);
        let is_known = known.is_some();
        Ok(Self { user: known.map_or_else(|| uid.to_string(), |user| user.name), group, uid, gid, is_known })
    }

    /// Whether this is the system's administrator.
    pub(crate) fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// The numbers of the user and the group.
    pub(crate) fn numbers(&self) -> (Uid, Gid) {
        (self.uid, self.gid)
    }

    /// Becomes this user, for good. There may be only one thread.
    ///
    /// # Errors
    ///
    /// The system refuses, or the process could become root again.
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
            return Err(io::Error::other("the process could become root again"));
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

/// Raises the niceness by this much, which a negative number lowers. Zero asks the system nothing.
///
/// # Errors
///
/// The system refuses, as it does when a user without the right lowers it.
pub(crate) fn nice(increment: i32) -> io::Result<()> {
    if increment == 0 {
        return Ok(());
    }
    // The new niceness is returned, of which -1 is one: only the error number tells.
    Errno::clear();
    // SAFETY: takes a number and touches no memory.
    let niceness = unsafe { libc::nice(increment) };
    match Errno::last() {
        error if niceness == -1 && error != Errno::UnknownErrno => Err(error.into()),
        _ => Ok(()),
    }
}
