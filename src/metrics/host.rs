//! The check of the field `Host`.
//!
//! A web page in an operator's browser can let its own name resolve to 127.0.0.1, and then read what a server there
//! answers (DNS rebinding). The browser still sends that name as `Host`, so names other than `localhost` are refused.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Returns whether this is an IP address or `localhost`, with or without a port.
pub(super) fn is_address_or_localhost(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_port && address.parse::<Ipv6Addr>().is_ok();
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    is_port(port) && (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok())
}

/// Returns whether this is a port number, or empty, which means the default port.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text.is_empty() || text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_accepted_and_other_names_refused() {
        for host in [
            "127.0.0.1",
            "192.0.2.1:9421",
            "127.0.0.1:",
            "[::1]",
            "[2001:db8::1]:9421",
            "[::ffff:127.0.0.1]:1",
            "localhost",
            "LocalHost:65535",
        ] {
            assert!(is_address_or_localhost(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":",
            ":9421",
            "example.net",
            "127.0.0.1.example.net",
            "localhost.example.net",
            "localhost.",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "127.0.0.1:65536",
            "127.0.0.1:+1",
            "127.0.0.1:80:80",
            "127.0.0.1 ",
            "::1",
            "[::1",
            "[::1]9421",
            "[127.0.0.1]",
            "[fe80::1%25lo]",
            "a@127.0.0.1",
            "127.0.0.1/",
        ] {
            assert!(!is_address_or_localhost(host.as_bytes()), "{host}");
        }
        assert!(!is_address_or_localhost(b"\xff"));
    }
}
