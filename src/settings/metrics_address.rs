//! The value of `MetricsAddress`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where the metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetricsAddress {
    /// By TCP. The port 0 is any free one.
    Tcp(SocketAddr),
    /// On a Unix socket with this absolute path.
    Unix(PathBuf),
}

/// A text that is no address of metrics.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "'{}' is neither ADDRESS:PORT, with an IPv4 address or an IPv6 address in brackets, nor the absolute path of a Unix \
     socket: write 127.0.0.1:9421, for example", .0.escape_debug()
)]
pub(crate) struct MetricsAddressError(String);

impl FromStr for MetricsAddress {
    type Err = MetricsAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| MetricsAddressError(text.to_owned()))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths_are_told_apart() {
        for (text, expected) in [
            ("127.0.0.1:9421", MetricsAddress::Tcp(([127, 0, 0, 1], 9421).into())),
            ("[::1]:0", MetricsAddress::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 0).into())),
            ("/run/pyzord/metrics.sock", MetricsAddress::Unix("/run/pyzord/metrics.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()));
            assert_eq!(expected.to_string(), text);
        }
        for wrong in [
            "localhost:9421",
            "127.0.0.1",
            ":9421",
            "9421",
            "::1:9421",
            "[::1]",
            "127.0.0.1:65536",
            "127.0.0.1:-1",
            "metrics.sock",
            "~/metrics.sock",
            "http://127.0.0.1:9421",
            " 127.0.0.1:9421",
        ] {
            assert_eq!(wrong.parse::<MetricsAddress>(), Err(MetricsAddressError(wrong.to_owned())));
        }
    }
}
