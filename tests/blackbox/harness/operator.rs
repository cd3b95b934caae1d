//! A client of the control socket, below pyzorctl.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::Home;

/// A connection to the control socket of a server.
pub(crate) struct Operator {
    connection: BufReader<UnixStream>,
}

impl Operator {
    /// Connects to the default socket of a homedir.
    pub(crate) fn connect(home: &Home) -> Self {
        let connection = UnixStream::connect(home.path("pyzord.sock")).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { connection: BufReader::new(connection) }
    }

    /// Sends bytes as they are. Returns whether the server took them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.connection.get_mut().write_all(bytes).is_ok()
    }

    /// Receives the next line; none if the server has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.connection.read_line(&mut line) {
            Ok(0) => None,
            // Reset: the server has closed the connection before it read everything.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// Sends a command and returns the reply.
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        assert!(self.send(format!("{{\"command\":\"{command}\"}}\n").as_bytes()));
        self.receive().expect("the server has closed the connection")
    }
}

/// Asks the server of a homedir on a new connection.
pub(crate) fn ask_operator(home: &Home, command: &str) -> Value {
    Operator::connect(home).ask(command)
}
