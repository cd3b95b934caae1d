//! Requests of the control socket: one JSON object a line, `{"command":"status"}`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::figures::printable;

/// Maximum length of a request line in bytes, with its line end.
pub(crate) const MAX_REQUEST: usize = 4096;

/// A request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// The state of the server.
    Status {},
    /// All counters since the start.
    Stats {},
    /// Read accounts and access rules again.
    Reload {},
    /// Open the log files again, then reload.
    Reopen {},
}

/// A line that is not a request; the text is for the peer.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    /// Longer than [`MAX_REQUEST`].
    #[error("a request has at most {MAX_REQUEST} bytes")]
    TooLong,
    /// Not an object. Without this check the array `["status"]` would be a request, too.
    #[error("not a request: a request is a JSON object")]
    NotObject,
    /// Not JSON, or no known command.
    #[error("not a request: {}", printable(&.0.to_string()))]
    Malformed(#[from] serde_json::Error),
}

impl ControlRequest {
    /// Parses a line, with or without its line end.
    ///
    /// # Errors
    ///
    /// The line is too long or not a request.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, RequestError> {
        if line.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err(RequestError::NotObject);
        }
        Ok(serde_json::from_slice(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_objects_with_one_field() {
        let parse = |line: &str| ControlRequest::parse(line.as_bytes());
        assert_eq!(parse("{\"command\":\"status\"}\n").unwrap(), ControlRequest::Status {});
        assert_eq!(parse(" { \"command\" : \"reopen\" } ").unwrap(), ControlRequest::Reopen {});
        for wrong in [
            "",
            "status",
            "{}",
            "{\"command\":\"stop\"}",
            "{\"command\":\"stats\",\"x\":1}",
            "[]",
            "[\"status\"]",
            "{\"command\":1}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let long = format!("{{\"command\":\"status\"}}{}", " ".repeat(MAX_REQUEST));
        assert!(matches!(parse(&long), Err(RequestError::TooLong)));
    }

    #[test]
    fn errors_are_lines_whatever_the_request_contains() {
        let error = ControlRequest::parse(br#"{"command":"st\nd\u001b"}"#).unwrap_err().to_string();
        assert!(error.contains("st") && !error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(ControlRequest::parse("[".repeat(MAX_REQUEST).as_bytes()).is_err());
    }
}
