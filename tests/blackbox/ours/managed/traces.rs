//! Messages of a server whose system calls are slow.

mod injected;

use nix::sys::signal::Signal;

use super::scripted::Manager;
use crate::harness::{Home, Server, digest};
use crate::ours::repairs::expect_only_database;

const MORE_TIME: &str = "EXTEND_TIMEOUT_USEC=30000000\n";

#[test]
fn stop_whose_syncs_hang_asks_for_more_time() {
    let home = Home::open();
    // A database that exists already: the start then syncs nothing.
    assert_eq!(home.start().stop().code(), Some(0));
    let trace = home.parent().join("trace");
    let script = format!(
        "exec strace -f --seccomp-bpf -qq -o '{}' -e trace=fsync,msync -e inject=fsync,msync:delay_enter=12000000 \
         \"$@\"",
        trace.display()
    );
    let manager = Manager::new();
    let mut command = home.under(&script, false);
    command.env("NOTIFY_SOCKET", &manager.name);
    let mut tracer = Server::start(&home, command);
    assert_eq!(manager.change(), "READY=1\n");
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    tracer.process().child().signal(Signal::SIGTERM);
    assert_eq!(manager.change(), "STOPPING=1\n");
    // At once, and again ten seconds later.
    for _ in 0..2 {
        assert_eq!(manager.next_but(&["STATUS="]), MORE_TIME);
    }
    assert_eq!(tracer.ended().code(), Some(0));
    expect_only_database(&home);
    assert_eq!(home.stored()[&digest(1)], 1);
}
