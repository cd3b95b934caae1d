//! pyzorctl: its output and exit codes, with scripted servers and with real ones.

mod command_line;
mod fake;
mod health;
mod interval;
mod peers;
mod replies;
mod servers;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Finished, controller, finish};

/// The command `pyzorctl` with these arguments, separated by blanks, without the tests' own `HOME`.
fn program(arguments: &str) -> Command {
    let mut command = Command::new(controller());
    command.args(arguments.split_whitespace()).env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// Runs the program.
fn said(arguments: &str) -> Finished {
    finish(program(arguments))
}

/// Runs the program with this control socket.
fn said_by(socket: &Path, arguments: &str) -> Finished {
    said(&format!("--socket {} {arguments}", socket.display()))
}

impl Finished {
    /// Asserts the exit code, and that all output is on standard output. Returns that.
    #[track_caller]
    fn expect_report(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (Some(code), ""), "{self:?}");
        &self.stdout
    }

    /// Asserts the exit code and one line on standard error. Returns the line.
    #[track_caller]
    fn expect_complaint(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        let line = self.stderr.strip_prefix("pyzorctl: error: ").and_then(|line| line.strip_suffix('\n'));
        line.filter(|line| !line.contains('\n')).unwrap_or_else(|| panic!("not one line: {self:?}"))
    }

    /// Parses standard output as one line of JSON.
    #[track_caller]
    fn json(&self) -> Value {
        let line = self.stdout.strip_suffix('\n').filter(|line| !line.contains('\n'));
        line.and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| panic!("not one object: {self:?}"))
    }
}
