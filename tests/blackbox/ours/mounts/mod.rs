//! Servers on file systems that the tests mount, which needs the right to mount.

mod etc;
mod full_disks;
mod logs;
mod pid_files;
mod recovery;
mod repairs;
mod resolver;
mod soak;
mod status;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

pub(crate) use self::etc::Etc;
use crate::harness::Home;

/// A file system or file mounted over a directory or file, in a mount namespace of its own.
pub(crate) struct Disk {
    holder: Child,
    directory: PathBuf,
}

impl Disk {
    /// Mounts a disk of this size in KiB over a directory.
    pub(crate) fn new(home: &Home, directory: PathBuf, size: u32) -> Self {
        let script = "mount -t tmpfs -o size=\"$2\"k,mode=755 test \"$1\"";
        Self::mounted(home, script, directory, size.to_string().as_ref())
    }

    /// Mounts a file over another file.
    pub(crate) fn of_a_file(home: &Home, file: &Path, place: PathBuf) -> Self {
        Self::mounted(home, "mount --bind \"$2\" \"$1\"", place, file.as_os_str())
    }

    /// Runs a script that mounts something at the directory, which is its first argument.
    fn mounted(home: &Home, script: &str, directory: PathBuf, argument: &OsStr) -> Self {
        // The mount exists as long as this process.
        let script = format!("{script} && echo mounted && exec cat");
        let mut command = home.mark(Command::new("unshare"));
        command.arg(if Uid::effective().is_root() { "-m" } else { "-rm" }).args(["sh", "-c", &script, "sh"]);
        command.arg(&directory).arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(
            line, "mounted\n",
            "cannot mount a small disk: run the tests as root or with user namespaces allowed \
             (sysctl kernel.unprivileged_userns_clone=1; in a container --cap-add SYS_ADMIN)"
        );
        Self { holder, directory }
    }

    /// Wraps a command, so that it runs in the mount namespace.
    pub(crate) fn inside(&self, home: &Home, inner: &Command) -> Command {
        let mut command = home.mark(Command::new("nsenter"));
        command.args(["-t", &self.holder.id().to_string(), "-m"]);
        if !Uid::effective().is_root() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.arg("--").arg(inner.get_program()).args(inner.get_args());
        command
    }

    /// Returns the path of a file on the disk that works outside of the mount namespace.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        PathBuf::from(root).join(self.directory.strip_prefix("/").unwrap()).join(name)
    }

    /// Returns the free space in KiB.
    pub(crate) fn free(&self) -> usize {
        let disk = statvfs(&self.path("")).unwrap();
        usize::try_from(disk.blocks_available() * disk.fragment_size() / 1024).unwrap()
    }

    /// Writes a file of this size in KiB.
    pub(crate) fn fill(&self, name: &str, size: usize) {
        fs::write(self.path(name), vec![0; size * 1024]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
