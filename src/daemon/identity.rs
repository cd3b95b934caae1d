//! Becoming another user: what root alone may do comes before, and everything else is tried after.
//!
//! All files but the output of `--detach` are opened by the new user, so that a start tries what a
//! later reload or rotation will need. Logs on descriptors that the process was started with are taken
//! before, and never opened by their names.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

use super::listening::{self, BindAborted, RootSocket};
use super::prepare::StartError;
use crate::os::inherited::{self, Inherited};
use crate::os::open;
use crate::os::privileges::{self, Identity};
use crate::settings::Settings;
use crate::storage;

/// Directories that many programs share, which none of them may own.
const SHARED_DIRECTORIES: [&str; 8] =
    ["/", "/etc", "/run", "/tmp", "/var", "/var/lib", "/var/log", "/var/run"];

/// Why a start ends before there is a runtime.
pub(super) enum StartAborted {
    /// What is wrong, a line each.
    Failed(Vec<String>),
    /// This signal asked for the end while something was waited for.
    Stopped(&'static str),
}

/// Becomes the user that the settings name, if any, and returns the socket that root has made for it.
///
/// # Errors
///
/// What keeps it from that.
pub(super) fn assume(settings: &Settings, made_homedir: bool) -> Result<Option<RootSocket>, StartAborted> {
    if settings.user.is_empty() {
        return Ok(None);
    }
    let one = |error: String| StartAborted::Failed(vec![error]);
    let identity = Identity::find(&settings.user, &settings.group)
        .map_err(|text| one(format!("cannot become the user that User names: {text}")))?;
    let now = Uid::effective();
    if !now.is_root() {
        // Asked for and done already, as under a service manager.
        if identity.numbers().0 == now {
            return Ok(None);
        }
        return Err(one(format!(
            "User: only root can become {}, and this is the user number {now}: start as root, or remove User",
            identity.user
        )));
    }
    if identity.is_root() {
        return Ok(None);
    }
    if settings.reuse_port && privileges::is_for_root(settings.port) {
        return Err(one(format!(
            "ReusePort: the port {} is one that only root can bind, and {} has to bind it, once it can serve: choose \
             another Port, let every user bind it (sysctl net.ipv4.ip_unprivileged_port_start={}), or switch ReusePort \
             off",
            settings.port, identity.user, settings.port
        )));
    }
    let socket = listening::open_as_root(settings).map_err(|error| match error {
        BindAborted::Failed(error) => one(error.to_string()),
        BindAborted::Stopped(name) => StartAborted::Stopped(name),
    })?;
    let (uid, gid) = identity.numbers();
    if made_homedir {
        chown(&settings.homedir, Some(uid.as_raw()), Some(gid.as_raw())).map_err(|error| {
            one(format!("cannot give {} to {}: {error}", settings.homedir.display(), identity.user))
        })?;
    }
    identity.assume().map_err(|error| one(format!("cannot become the user {}: {error}", identity.user)))?;
    let failures = FileTrial { identity: &identity }.of(settings);
    if failures.is_empty() { Ok(Some(socket)) } else { Err(StartAborted::Failed(failures)) }
}

/// Opens the file that takes all output in the background.
pub(super) fn open_output(path: &Path) -> Result<File, StartError> {
    let opened = match Inherited::named(path) {
        Ok(Some(inherited)) => inherited.duplicate().map(File::from),
        Ok(None) => open::to_append(path),
        Err(error) => Err(error),
    };
    opened.map_err(|error| StartError::Output { path: path.display().to_string(), error })
}

/// Tries as the new user what is needed now or later, and leaves nothing behind.
struct FileTrial<'a> {
    identity: &'a Identity,
}

impl FileTrial<'_> {
    /// What fails, a line each.
    fn of(&self, settings: &Settings) -> Vec<String> {
        let mut failures = Vec::new();
        failures.extend(self.reads("passwd file", &settings.passwd_file));
        failures.extend(self.reads("access file", &settings.access_file));
        for (what, path) in [("log file", &settings.log_file), ("usage log file", &settings.usage_log_file)] {
            // What means a descriptor is open already, and never opened by its name.
            if let Some(path) = path.as_deref().filter(|path| inherited::number_of(path).is_none()) {
                failures.extend(self.writes(what, path));
            }
        }
        if storage::properties(&settings.engine).is_file {
            // Where a link leads is where repairs make files.
            let path = &settings.digest_db_path;
            failures
                .extend(self.writes("database", &fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
        }
        if settings.detach.is_some() {
            failures.extend(self.writes("pid file", &settings.pid_file));
        }
        failures
    }

    fn reads(&self, what: &str, path: &Path) -> Option<String> {
        let error = open::to_read(path).err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
        let (user, group) = (&self.identity.user, &self.identity.group);
        let (command, path) = (self.command_to_open_parents(path), path.display());
        let line = format!("{user} cannot read the {what} {path}: {error}");
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Some(line);
        }
        let command = command.unwrap_or_else(|| format!("chgrp {group} {path} && chmod g+r {path}"));
        Some(format!("{line}: {command}"))
    }

    /// Tries a file that is there, and whether one could be made in its directory and removed.
    fn writes(&self, what: &str, path: &Path) -> Option<String> {
        let user = &self.identity.user;
        let is_other = |metadata: fs::Metadata| !metadata.is_file();
        if fs::metadata(path).is_ok_and(is_other) {
            // A terminal, a pipe: nothing is ever made in its place.
            let error = open::to_append(path).err()?;
            return Some(format!("{user} cannot write to the {what} {}: {error}", path.display()));
        }
        match open::without_waiting(OpenOptions::new().append(true)).open(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let command = self
                    .command_to_open_parents(path)
                    .unwrap_or_else(|| format!("chown {user} {}", path.display()));
                return Some(format!(
                    "{user} cannot write the {what} {}: {error}: {command}",
                    path.display()
                ));
            }
            _ => {}
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let error = tempfile::Builder::new().prefix(".pyzord-trial-").tempfile_in(directory).err()?;
        let command =
            self.command_to_open_parents(directory).unwrap_or_else(|| self.command_to_own(directory));
        Some(format!(
            "{user} cannot make files in {}, where the {what} is: {error}: {command}",
            directory.display()
        ))
    }

    /// The command that lets the user make files in a directory.
    fn command_to_own(&self, directory: &Path) -> String {
        let Identity { user, group, .. } = self.identity;
        if !directory.exists() {
            format!("install -d -o {user} -g {group} {}", directory.display())
        } else if SHARED_DIRECTORIES.iter().any(|shared| directory == Path::new(shared)) {
            let own = directory.join("pyzord");
            format!("install -d -o {user} -g {group} {} and use that folder", own.display())
        } else {
            format!("chown {user} {}", directory.display())
        }
    }

    /// The command that lets the user reach a path, if a directory above it is closed.
    fn command_to_open_parents(&self, path: &Path) -> Option<String> {
        let parents: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        let closed = parents
            .iter()
            .rev()
            .find(|parent| parent.is_dir() && access(parent.as_path(), AccessFlags::X_OK).is_err())?;
        Some(format!("chmod o+x {}", closed.display()))
    }
}
