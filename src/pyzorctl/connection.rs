//! One request on the control socket, with bounds on the time and the size of its reply.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::NoAnswer;
use crate::control::reply::ControlReply;
use crate::control::request::ControlRequest;
use crate::os::local_socket::connect_to;

/// The longest reply that is accepted, in bytes: room for a warning about each line of a large file.
pub(super) const MAX_REPLY: usize = 16 << 20;
/// The longest wait for a connection, and for the reply to a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait for a reload, which reads files. The server replies after 30 s, even if it is not done.
const RELOAD_PATIENCE: Duration = Duration::from_secs(35);

/// A reply of the server.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) reply: ControlReply,
    /// The report in the reply, as the server wrote it: a newer server's may have more fields.
    pub(super) json: Value,
}

/// Connects to the socket at this path, sends a request and returns the reply.
///
/// # Errors
///
/// The socket cannot be used, the reply is late, too long, or not understood, or the server reports an error.
pub(super) fn ask(path: &Path, request: ControlRequest) -> Result<Received, NoAnswer> {
    let patience = match request {
        ControlRequest::Status {} | ControlRequest::Stats {} => PATIENCE,
        ControlRequest::Reload {} | ControlRequest::Reopen {} => RELOAD_PATIENCE,
    };
    let deadline = Instant::now() + patience;
    let system = |error| NoAnswer::of_system(path, error);
    let mut stream = connect_to(path, PATIENCE).map_err(system)?;
    let mut line = serde_json::to_vec(&request).map_err(|error| system(error.into()))?;
    line.push(b'\n');
    // A server that refuses the connection may have closed it; its reply says why.
    match stream.write_all(&line) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(system(error)),
        _ => {}
    }
    match read_line(&mut stream, deadline) {
        Ok(line) => understand(path, &line),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(NoAnswer::Silent { path: path.to_owned(), patience })
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(NoAnswer::TooLong(path.to_owned())),
        Err(error) => Err(system(error)),
    }
}

/// Reads up to the end of a line, which is not returned.
///
/// # Errors
///
/// `UnexpectedEof` for a line without an end, `FileTooLarge` for one that is too long, `WouldBlock` or `TimedOut` after
/// the deadline.
fn read_line(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = memchr::memchr(b'\n', read);
        line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
        if line.len() > MAX_REPLY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

/// Parses a reply: an object with one field.
pub(super) fn understand(path: &Path, line: &[u8]) -> Result<Received, NoAnswer> {
    let malformed = |reason: String| NoAnswer::Malformed { path: path.to_owned(), reason };
    let value: Value = serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
    let reply = serde_json::from_value(value.clone()).map_err(|error| malformed(error.to_string()))?;
    match reply {
        ControlReply::Error(text) => return Err(NoAnswer::Refused(text)),
        ControlReply::Unavailable(text) => return Err(NoAnswer::Unavailable(text)),
        ControlReply::Status(_) | ControlReply::Stats(_) | ControlReply::Reloaded(_) => {}
    }
    let report = value.as_object().and_then(|fields| fields.values().next());
    Ok(Received { reply, json: report.cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(line: &str) -> Result<Received, NoAnswer> {
        understand(Path::new("/x"), line.as_bytes())
    }

    #[test]
    fn fields_of_a_newer_server_are_kept() {
        let received = understood("{\"reloaded\":{\"changes\":[\"a\"],\"warnings\":[],\"new\":1}}").unwrap();
        assert!(matches!(received.reply, ControlReply::Reloaded(report) if report.changes == ["a"]));
        assert_eq!(received.json["new"], 1);
    }

    #[test]
    fn reply_with_missing_fields_is_not_understood() {
        for line in [
            "",
            "{}",
            "[]",
            "null",
            "\"status\"",
            "{\"status\":{}}",
            "{\"status\":{\"health\":\"well\"}}",
            "{\"x\":1}",
        ] {
            assert!(matches!(understood(line), Err(NoAnswer::Malformed { .. })), "{line}");
        }
        let deep = "[".repeat(MAX_REPLY);
        assert!(matches!(understood(&deep), Err(NoAnswer::Malformed { .. })));
        assert!(matches!(understood("{\"error\":\"no\"}"), Err(NoAnswer::Refused(text)) if text == "no"));
    }
}
