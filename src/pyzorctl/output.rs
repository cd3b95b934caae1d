//! Printing.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::EXIT_UNKNOWN;
use crate::control::figures::is_unprintable;

/// The result of a command: its output, and its exit code.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) text: String,
    pub(super) code: u8,
}

impl Outcome {
    /// Prints the text, and returns the exit code: that of an unknown state if the text cannot be written.
    pub(super) fn print(self) -> ExitCode {
        match print(&self.text) {
            Ok(()) => self.code.into(),
            Err(error) => {
                complain(&format!("pyzorctl: error: cannot write to standard output: {error}\n"));
                EXIT_UNKNOWN.into()
            }
        }
    }
}

/// Writes to standard output at once.
///
/// # Errors
///
/// Standard output is closed or cannot take the text.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Writes to standard error, which may be closed.
pub(super) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Formats a JSON value in one line, with all characters escaped that control a terminal.
pub(super) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        // Such characters occur in texts alone, and none needs more than four digits.
        if is_unprintable(character) {
            // Writing to a string never fails.
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_line_without_control_characters() {
        let value = serde_json::json!({ "text": "a\n\u{1b}[2J\u{7f}\u{9b}\u{202e}é" });
        let line = json_line(&value);
        assert_eq!(line, "{\"text\":\"a\\n\\u001b[2J\\u007f\\u009b\\u202eé\"}\n");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
