//! A `/etc` that a test writes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::Home;

/// A directory mounted over `/etc` in a mount namespace of its own.
pub(crate) struct Etc(Child);

impl Etc {
    /// Creates the directory with what a resolver needs, and mounts it.
    pub(crate) fn new(home: &Home, directory: &Path) -> Self {
        fs::create_dir(directory).unwrap();
        for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache", "host.conf"] {
            // Not every system has all of them.
            let _ = fs::copy(Path::new("/etc").join(name), directory.join(name));
        }
        fs::write(directory.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(directory.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        // The mount exists as long as this process.
        let mut command = home.mark(Command::new("unshare"));
        command.args(["-m", "sh", "-c", "mount --bind \"$1\" /etc && echo mounted && exec cat", "sh"]);
        command.arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self(holder)
    }

    /// Wraps a command, so that it runs in the mount namespace.
    pub(crate) fn inside(&self, home: &Home, inner: &Command) -> Command {
        let mut command = home.mark(Command::new("nsenter"));
        command.args(["-t", &self.0.id().to_string(), "-m", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
