//! Requests over the control socket, and the state of the database in their replies.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{Home, PATIENCE, eventually};

/// Sends a command over a control socket and returns the reply; none if there is no server.
fn ask_control(socket: &Path, command: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "{{\"command\":\"{command}\"}}").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

impl Home {
    /// Returns the state of the database according to the running server.
    #[track_caller]
    pub(crate) fn storage_status(&self) -> StorageStatus {
        storage_status(&self.path("pyzord.sock"))
    }

    /// Waits until the state of the database satisfies a condition, and returns it.
    #[track_caller]
    pub(crate) fn storage_with(&self, what: &str, is_met: impl Fn(&StorageStatus) -> bool) -> StorageStatus {
        eventually(what, || Some(self.storage_status()).filter(|status| is_met(status)))
    }
}

/// The state of a database in the reply to `status`.
#[derive(Debug)]
pub(crate) struct StorageStatus(Value);

/// Asks for the state of the database over a control socket.
#[track_caller]
pub(crate) fn storage_status(socket: &Path) -> StorageStatus {
    let reply = ask_control(socket, "status").expect("no server answers on the control socket");
    // No reply may reveal a password of the tests.
    assert!(!reply.to_string().contains("secret"), "{reply}");
    StorageStatus(reply["status"]["storage"].clone())
}

impl StorageStatus {
    pub(crate) fn availability(&self) -> &str {
        self.0["availability"].as_str().unwrap()
    }

    pub(crate) fn is_available(&self) -> bool {
        self.availability() == "available"
    }

    /// Returns the reason, or an empty text.
    pub(crate) fn reason(&self) -> &str {
        self.0["reason"].as_str().unwrap_or_default()
    }

    pub(crate) fn problems(&self) -> Vec<&str> {
        self.0["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect()
    }

    /// Returns a number of the status; none if it is unknown.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        assert!(self.0.get(name).is_some(), "{name} is missing: {self:?}");
        self.0[name].as_u64()
    }

    /// Returns a number of the last expiry; none before the first one.
    pub(crate) fn expiry(&self, name: &str) -> Option<u64> {
        self.0["last_expiry"].get(name)?.as_u64()
    }
}
