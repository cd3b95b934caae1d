//! The fuzz target for requests of the control socket.

use serde_json::Value;

use super::request::{ControlRequest, MAX_REQUEST, RequestError};
use crate::fuzz_models::check_lines;

/// Parses any line, and compares the result with that of a reader of JSON that knows no commands.
pub(crate) fn target(line: &[u8]) {
    match ControlRequest::parse(line) {
        Ok(request) => {
            let name = match request {
                ControlRequest::Status {} => "status",
                ControlRequest::Stats {} => "stats",
                ControlRequest::Reload {} => "reload",
                ControlRequest::Reopen {} => "reopen",
            };
            let value: Value = serde_json::from_slice(line).unwrap_or_default();
            assert_eq!(value, serde_json::json!({ "command": name }), "{}", line.escape_ascii());
            let text = serde_json::to_vec(&request).unwrap_or_default();
            assert!(ControlRequest::parse(&text).is_ok_and(|again| again == request));
        }
        Err(error) => {
            assert_eq!(matches!(error, RequestError::TooLong), line.len() > MAX_REQUEST);
            check_lines(&[error.to_string()]);
            check_refused(line);
        }
    }
}

/// A refused line is not a request in its plainest form.
fn check_refused(line: &[u8]) {
    if line.len() <= MAX_REQUEST {
        for name in ["status", "stats", "reload", "reopen"] {
            let plain = format!("{{\"command\":\"{name}\"}}");
            assert_ne!(line.strip_suffix(b"\n").unwrap_or(line), plain.as_bytes());
        }
    }
}
