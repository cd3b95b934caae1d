//! A kernel that supports confinement but refuses it.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{Home, Server};

#[test]
fn confinement_refused_by_the_kernel_is_a_warning() {
    for (call, what) in [("landlock_restrict_self", "landlock"), ("seccomp", "seccomp")] {
        let home = Home::open();
        let mut command = home.mark(Command::new("strace"));
        let inner = home.command();
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:error=E2BIG"), "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let mut tracer = Server::start(&home, command);
        tracer.serves(&mut home.caller());
        for text in [home.log(), home.stderr()] {
            let line =
                text.lines().find(|line| line.contains("Confine:")).unwrap_or_else(|| panic!("{text}"));
            assert!(line.to_lowercase().contains("warning") && line.contains(what), "{line}");
        }
        tracer.process().child().signal(Signal::SIGTERM);
        assert_eq!(tracer.ended().code(), Some(0));
    }
}
