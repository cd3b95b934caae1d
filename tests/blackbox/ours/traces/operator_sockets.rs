//! Servers that are killed between creating a socket for operators and listening on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::harness::{Home, finish};

#[test]
fn sockets_have_their_modes_from_the_first_moment() {
    let home = Home::open();
    let metrics = home.path("metrics.sock");
    let settings = format!("MetricsAddress = {}\n", metrics.display());
    for (settings, path, mode) in [("", home.path("pyzord.sock"), 0o600), (settings.as_str(), metrics, 0o660)]
    {
        let home = home.clone().config(settings);
        let mut command = home.mark(Command::new("strace"));
        let inner = home.command();
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=listen"]);
        command.args(["-e", "inject=listen:error=ENOBUFS:signal=KILL", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        finish(command);
        let found = fs::symlink_metadata(&path).unwrap().mode();
        assert_eq!(found, libc::S_IFSOCK | mode, "{found:o}");
        // No process listens on it.
        let daemon = home.detach_after_kill();
        daemon.stop();
        assert!(!path.exists());
    }
}
