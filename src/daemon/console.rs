//! What the program prints for a person, before there are logs and beside them.

use std::fmt;
use std::io::{self, Write};

use crate::os::inherited::Inherited;

/// Prints one line for a person on stderr, before there are logs. Where that is gone, or is full because nothing
/// reads it, the line is dropped: a start waits for no reader.
pub(super) fn say(what: &str, text: &dyn fmt::Display) {
    print_to_stderr(&format!("pyzord: {what}: {text}\n"));
}

/// Prints a line on stderr, like [`say`].
pub(super) fn print_to_stderr(line: &str) {
    let mut rest = line.as_bytes();
    while !rest.is_empty()
        && let Ok(written @ 1..) = Inherited::STDERR.write_now(rest)
    {
        rest = &rest[written..];
    }
}

/// Prints on stdout.
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
