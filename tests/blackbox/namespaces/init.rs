//! The server as the first process of a container, for which the kernel has rules of its own: it takes no
//! signal that it does not handle.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, eventually, ours_only};
use crate::support::{Running, Site};

#[test]
fn the_first_process_takes_its_signals() {
    if !ours_only() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let inner = site.command();
        let mut command = site.mark(Command::new("unshare"));
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let mut outer = Running::start(&site, command);
        let mut caller = site.caller();
        outer.serves(&mut caller);
        let first = outer.daemon().child();
        let status = fs::read_to_string(first.proc("status")).unwrap();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");

        first.signal(Signal::SIGUSR1);
        eventually("a reload", || site.home().log().contains("have been reloaded").then_some(()));
        fs::rename(site.path("usage.log"), site.path("old")).unwrap();
        first.signal(Signal::SIGHUP);
        eventually("a new log", || site.path("usage.log").exists().then_some(()));
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        first.signal(signal);
        assert_eq!(outer.ended().code(), Some(0));
        assert!(site.home().log().contains("Server shutdown."));
        assert_eq!(site.stored(), [(DIGEST.to_owned(), 1)].into());
    }
}
