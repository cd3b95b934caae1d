//! Messages on the console, before the logs are open and in addition to them.

use std::fmt;
use std::io::{self, Write};

use crate::os::inherited::Inherited;
use crate::os::journal::{self, Priority};

/// Prints one message to stderr, with a priority if that is the journal. It is dropped if stderr is closed or full: the
/// start must not wait for a reader.
pub(super) fn say(what: &str, text: &dyn fmt::Display) {
    if !journal::has_stderr() {
        return print_to_stderr(&format!("pyzord: {what}: {text}\n"));
    }
    let priority = match what {
        "error" => Priority::Error,
        "warning" => Priority::Warning,
        _ => Priority::Info,
    };
    print_to_stderr(&format!("{}{text}\n", priority.prefix()));
}

/// Prints a line to stderr, or drops it if stderr is closed or full.
pub(super) fn print_to_stderr(line: &str) {
    let mut rest = line.as_bytes();
    while !rest.is_empty()
        && let Ok(written @ 1..) = Inherited::STDERR.write_now(rest)
    {
        rest = &rest[written..];
    }
}

/// Prints a text to stdout.
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
