//! The address of a server, as servers and accounts files write it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The port of servers that are named without one.
pub const DEFAULT_PORT: u16 = 24_441;
/// The longest name of a host, in bytes.
const LONGEST_NAME: usize = 253;
/// The longest part of a name between two points, in bytes.
const LONGEST_LABEL: usize = 63;

/// A host, by name or number, and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// The name or the address, without brackets. An IPv6 address is in its shortest form.
    pub host: String,
    /// The port, from 1.
    pub port: u16,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl ServerAddress {
    /// Parses `host:port`, `host`, `[address]:port` or `[address]`.
    ///
    /// # Errors
    ///
    /// What is wrong, without a part of the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = match text.starts_with('[') {
            true => bracketed(text)?,
            false => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err("more than one colon: an IPv6 address needs brackets, as in [::1]:24441");
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => number(port).flatten().filter(|port| *port > 0).ok_or(BAD_PORT)?,
        };
        Ok(Self { host: parse_host(host)?, port })
    }

    /// Whether both name one server: names of hosts are not case-sensitive.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }
}

/// What is wrong with a port.
pub(crate) const BAD_PORT: &str = "the port is not a number from 1 to 65535";

/// Splits `[address]` and `[address]:port` into the address with its brackets, and the port.
fn bracketed(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    let end = text.find(']').ok_or("the bracket ']' after the IPv6 address is missing")?;
    let (host, rest) = text.split_at(end + 1);
    match (rest, rest.strip_prefix(':')) {
        ("", _) => Ok((host, None)),
        (_, Some(port)) => Ok((host, Some(port))),
        (_, None) => Err("expected ':' and the port after the bracket ']'"),
    }
}

/// Parses a name, an IPv4 address, or an IPv6 address in brackets, and returns it without them.
///
/// # Errors
///
/// What is wrong, without a part of the text.
pub(crate) fn parse_host(text: &str) -> Result<String, &'static str> {
    if let Some(address) = text.strip_prefix('[') {
        return parse_ipv6(address.strip_suffix(']').unwrap_or_default())
            .ok_or("no IPv6 address in the brackets");
    }
    if text.is_empty() {
        return Err("the name of the host is missing");
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return Err(
            "the name of the host may have letters, digits, '.', '-' and '_' only, and 63 characters between two points",
        );
    }
    // The C library would take other forms for addresses, such as '1' for 0.0.0.1.
    let is_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if is_number && text.parse::<Ipv4Addr>().is_err() {
        return Err(
            "the host is a number, but not an IPv4 address: write all four parts, without leading zeros",
        );
    }
    Ok(text.to_owned())
}

/// Returns the shortest form of an IPv6 address, which may have a zone.
fn parse_ipv6(text: &str) -> Option<String> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(text.parse::<Ipv6Addr>().ok()?.to_string());
    };
    let is_zone = (1..16).contains(&zone.len())
        && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let address: Ipv6Addr = address.parse().ok()?;
    is_zone.then(|| format!("{address}%{zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        ServerAddress::parse(text).ok().map(|address| address.to_string())
    }

    #[test]
    fn names_and_addresses_are_accepted_with_and_without_a_port() {
        for (text, expected) in [
            ("public.pyzor.org:24441", "public.pyzor.org:24441"),
            ("a:1", "a:1"),
            ("a", "a:24441"),
            ("my_host.example.:65535", "my_host.example.:65535"),
            ("127.0.0.1:036001", "127.0.0.1:36001"),
            ("[::1]", "[::1]:24441"),
            ("[2001:DB8:0:0::1]:5", "[2001:db8::1]:5"),
            ("[fe80::1%eth0]:5", "[fe80::1%eth0]:5"),
            ("1and1.example:2", "1and1.example:2"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("{}:1", "a".repeat(64));
        for text in [
            "",
            ":",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:99999999999999999999",
            "a:+1",
            "a:-1",
            "a:1_0",
            "a:x",
            "a :1",
            "a: 1",
            "a b:1",
            "/x:1",
            "-x:1",
            "a..b:1",
            "a.-x:1",
            ".a:1",
            "\u{e9}a:1",
            "::1",
            "::1:24441",
            "0:0:0:0:0:0:0:1:5",
            "127.1:5",
            "1:5",
            "127.0.0.01:5",
            "127.0.0.1.:5",
            "[::1",
            "[::1]5",
            "[::1]:",
            "[]:1",
            "[127.0.0.1]:1",
            "[a]:1",
            "[::1%]:1",
            "[::1%a b]:1",
            "a:1:2",
            "a\0:1",
            &long,
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn case_of_a_host_does_not_matter_for_the_same_server() {
        let address = |text: &str| ServerAddress::parse(text).unwrap();
        assert!(address("Mail.example:1").is_same_server(&address("mail.EXAMPLE:1")));
        assert!(!address("a:1").is_same_server(&address("a:2")));
    }
}
