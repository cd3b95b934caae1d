//! Changing to the user that `User` names: steps that need root come before, file access is tested after.
//!
//! The new user opens all files except the output of `--detach`, so that the start fails if a later reload or log
//! rotation would. Inherited descriptors (`/dev/stdout` and the like) are duplicated before, and never opened by name.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

use super::directories;
use super::error::{FileFailure, StartError};
use super::listening::{self, EarlySocket};
use crate::os::inherited;
use crate::os::open;
use crate::os::privileges::{self, Identity};
use crate::settings::Settings;
use crate::storage;

/// Directories that many programs share, and that no message suggests giving to a single user.
const SHARED_DIRECTORIES: [&str; 8] =
    ["/", "/etc", "/run", "/tmp", "/var", "/var/lib", "/var/log", "/var/run"];

/// Changes to this user, if any, and returns the socket that it opened as root before. A socket that exists already is
/// returned unchanged.
///
/// # Errors
///
/// The user cannot be assumed, the socket cannot be opened, or the user cannot access a file that the server needs.
pub(super) fn assume(
    settings: &Settings,
    identity: Option<&Identity>,
    socket: Option<EarlySocket>,
) -> Result<Option<EarlySocket>, StartError> {
    let Some(identity) = identity else { return Ok(socket) };
    let user = &identity.user;
    if socket.is_none() && settings.reuse_port && privileges::is_for_root(settings.port) {
        let port = settings.port;
        return Err(StartError::User(format!(
            "ReusePort: {user} cannot bind the port {port}, which only root can bind: choose another Port, let every \
             user bind it (sysctl net.ipv4.ip_unprivileged_port_start={port}), or set ReusePort = False"
        )));
    }
    let socket = socket.map_or_else(|| listening::open_as_root(settings), Ok)?;
    identity
        .assume()
        .map_err(|error| StartError::Identity(format!("cannot become the user {user}: {error}")))?;
    let failures = FileTrial { identity }.of(settings);
    if failures.is_empty() { Ok(Some(socket)) } else { Err(StartError::Files(failures)) }
}

/// Gives the homedir that root has just created to this user. Removes it on failure, because a later start leaves the
/// owner of an existing directory as it is.
pub(super) fn give_homedir(homedir: &Path, identity: &Identity) -> Result<(), StartError> {
    let (uid, gid) = identity.numbers();
    chown(homedir, Some(uid.as_raw()), Some(gid.as_raw())).map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_dir(homedir);
        StartError::Identity(format!("cannot give {} to {}: {error}", homedir.display(), identity.user))
    })
}

/// Returns the user that `User` names, unless the process is that user already.
///
/// # Errors
///
/// The user or its group is not found, or the process is not root.
pub(super) fn to_assume(settings: &Settings) -> Result<Option<Identity>, StartError> {
    if settings.user.is_empty() {
        return Ok(None);
    }
    let identity = Identity::find(&settings.user, &settings.group)
        .map_err(|text| StartError::Identity(format!("cannot become the user that User names: {text}")))?;
    let current = Uid::effective();
    if identity.numbers().0 == current {
        return Ok(None);
    }
    if !current.is_root() {
        return Err(StartError::User(format!(
            "User: only root can become {}, and this process has the user number {current}: start as root, or remove \
             User",
            identity.user
        )));
    }
    Ok(Some(identity))
}

fn failure(line: String, error: &io::Error) -> FileFailure {
    FileFailure { line, is_lasting: open::is_lasting(error) }
}

/// Tests, as the new user, every file access that is needed now or later. Leaves nothing behind.
struct FileTrial<'a> {
    identity: &'a Identity,
}

impl FileTrial<'_> {
    /// Returns the failures.
    fn of(&self, settings: &Settings) -> Vec<FileFailure> {
        let mut failures = Vec::new();
        failures.extend(self.reads("passwd file", &settings.passwd_file));
        failures.extend(self.reads("access file", &settings.access_file));
        for (path, option) in directories::files(settings) {
            failures.extend(self.reads(&format!("file of {option}"), &path));
        }
        for (what, path) in [("log file", &settings.log_file), ("usage log file", &settings.usage_log_file)] {
            // A descriptor is open already, and never opened by its name.
            if let Some(path) = path.as_deref().filter(|path| inherited::number_of(path).is_none()) {
                failures.extend(self.writes(what, path));
            }
        }
        if storage::properties(&settings.engine).is_file {
            // Repairs create files in the directory that a link leads to.
            let path = &settings.digest_db_path;
            failures
                .extend(self.writes("database", &fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
        }
        if settings.detach.is_some() {
            failures.extend(self.writes("pid file", &settings.pid_file));
        }
        failures
    }

    fn reads(&self, what: &str, path: &Path) -> Option<FileFailure> {
        let error = open::to_read(path).err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
        let (user, group) = (&self.identity.user, &self.identity.group);
        let (command, path) = (self.command_to_open_parents(path), path.display());
        let line = format!("{user} cannot read the {what} {path}: {error}");
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Some(failure(line, &error));
        }
        let command = command.unwrap_or_else(|| format!("chgrp {group} {path} && chmod g+r {path}"));
        Some(failure(format!("{line}: {command}"), &error))
    }

    /// Tests whether an existing file is writable, and whether files can be created and removed in its directory.
    fn writes(&self, what: &str, path: &Path) -> Option<FileFailure> {
        let user = &self.identity.user;
        let is_other = |metadata: fs::Metadata| !metadata.is_file();
        if fs::metadata(path).is_ok_and(is_other) {
            // A terminal or pipe is never replaced: the directory does not matter.
            let error = open::to_append(path).err()?;
            let line = format!("{user} cannot write to the {what} {}: {error}", path.display());
            return Some(failure(line, &error));
        }
        match open::without_waiting(OpenOptions::new().append(true)).open(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let command = self
                    .command_to_open_parents(path)
                    .unwrap_or_else(|| format!("chown {user} {}", path.display()));
                let line = format!("{user} cannot write the {what} {}: {error}: {command}", path.display());
                return Some(failure(line, &error));
            }
            _ => {}
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let error = tempfile::Builder::new().prefix(".pyzord-trial-").tempfile_in(directory).err()?;
        let command =
            self.command_to_open_parents(directory).unwrap_or_else(|| self.command_to_own(directory));
        let line = format!(
            "{user} cannot create files in {}, the directory of the {what}: {error}: {command}",
            directory.display()
        );
        Some(failure(line, &error))
    }

    /// Returns the command that allows the user to create files in a directory.
    fn command_to_own(&self, directory: &Path) -> String {
        let Identity { user, group, .. } = self.identity;
        if !directory.exists() {
            format!("install -d -o {user} -g {group} {}", directory.display())
        } else if SHARED_DIRECTORIES.iter().any(|shared| directory == Path::new(shared)) {
            let own = directory.join("pyzord");
            format!("install -d -o {user} -g {group} {} and use that directory", own.display())
        } else {
            format!("chown {user} {}", directory.display())
        }
    }

    /// Returns the command that allows the user to reach a path, if a directory above it denies access.
    fn command_to_open_parents(&self, path: &Path) -> Option<String> {
        let parents: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        let denied = parents
            .iter()
            .rev()
            .find(|parent| parent.is_dir() && access(parent.as_path(), AccessFlags::X_OK).is_err())?;
        Some(format!("chmod o+x {}", denied.display()))
    }
}
