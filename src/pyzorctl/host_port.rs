//! The UDP address of a server, by name or number.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::settings::ServerContact;

/// The longest wait for the system's resolver.
const RESOLVER_PATIENCE: Duration = Duration::from_secs(5);
/// The most addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    /// The name or the address, without brackets.
    host: String,
    port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            // An IPv6 address needs brackets, or its last group would be taken for the port.
            let host = bare.or_else(|| (!host.contains([':', '[', ']'])).then_some(host))?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
        });
        parsed.ok_or_else(|| "expected HOST:PORT, such as 127.0.0.1:24441 or [::1]:24441".to_owned())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl HostPort {
    /// Returns the address at which the server of a homedir can be reached from this machine: loopback if it listens on
    /// all addresses. None if the system chooses its port.
    pub(super) fn of(contact: &ServerContact) -> Option<Self> {
        let host = match contact.listen_address.as_str() {
            "" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            address => address,
        };
        (contact.port > 0).then(|| Self { host: host.to_owned(), port: contact.port })
    }

    /// Returns the addresses of the host, at least one.
    ///
    /// # Errors
    ///
    /// The host has no address, or the resolver does not answer.
    pub(super) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let (sender, found) = mpsc::channel();
        let Self { host, port } = self.clone();
        // The system's resolver has no timeout of its own that can be set. The thread ends with the process.
        thread::spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(|found| found.collect::<Vec<_>>());
            // The receiver is gone if the resolver took too long.
            let _ = sender.send(found);
        });
        let mut found = found.recv_timeout(RESOLVER_PATIENCE).unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer"))
        })?;
        let mut seen = Vec::new();
        found.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        found.truncate(MOST_ADDRESSES);
        match found.is_empty() {
            true => Err(io::Error::other("it has no address")),
            false => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, u16)> {
        text.parse().ok().map(|HostPort { host, port }| (host, port))
    }

    #[test]
    fn ipv6_addresses_have_brackets() {
        assert_eq!(parsed("localhost:24441"), Some(("localhost".to_owned(), 24441)));
        assert_eq!(parsed("[fe80::1%lo]:1"), Some(("fe80::1%lo".to_owned(), 1)));
        for wrong in [
            "",
            "localhost",
            "localhost:",
            ":24441",
            "::1",
            "::1:24441",
            "[::1]",
            "[::1:24441",
            "x:0",
            "x:65536",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        for text in ["127.0.0.1:5", "[::1]:5"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wildcard_address_is_reached_by_loopback() {
        let reached = |address: &str, port| {
            let contact = ServerContact {
                homedir: "/".into(),
                control_socket: None,
                listen_address: address.to_owned(),
                port,
            };
            HostPort::of(&contact).map(|address| address.to_string())
        };
        for (address, expected) in [
            ("", "127.0.0.1:7"),
            ("0.0.0.0", "127.0.0.1:7"),
            ("::", "[::1]:7"),
            ("192.0.2.1", "192.0.2.1:7"),
            ("mail.example", "mail.example:7"),
        ] {
            assert_eq!(reached(address, 7).as_deref(), Some(expected));
        }
        assert_eq!(reached("", 0), None);
    }
}
