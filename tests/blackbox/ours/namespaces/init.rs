//! The server as process 1 of a container, to which the kernel delivers only signals with a handler.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, Server, eventually};

#[test]
fn server_as_process_1_takes_signals() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = Home::open();
        let inner = home.command();
        let mut command = home.mark(Command::new("unshare"));
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let mut outer = Server::start(&home, command);
        let mut caller = home.caller();
        outer.serves(&mut caller);
        let first = outer.process().child();
        let status = fs::read_to_string(first.proc("status")).unwrap();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");

        first.signal(Signal::SIGUSR1);
        eventually("a reload", || home.log().contains("have been reloaded").then_some(()));
        fs::rename(home.path("usage.log"), home.path("old")).unwrap();
        first.signal(Signal::SIGHUP);
        eventually("a new log", || home.path("usage.log").exists().then_some(()));
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        first.signal(signal);
        assert_eq!(outer.ended().code(), Some(0));
        assert!(home.log().contains("Server shutdown."));
        assert_eq!(home.stored(), [(DIGEST.to_owned(), 1)].into());
    }
}
