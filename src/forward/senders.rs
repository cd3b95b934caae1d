//! The senders in `ForwardFrom`: their forwarded requests are passed on although they have no id.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use crate::limits::{Networks, NetworksError};
use pyzor_wire::request::ANONYMOUS;

/// Networks and accounts, parsed from a list with commas or blanks between. What does not look like a network is an
/// account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardFrom {
    networks: Networks,
    accounts: HashSet<Vec<u8>>,
}

impl FromStr for ForwardFrom {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let (mut networks, mut accounts) = (Vec::new(), HashSet::new());
        for entry in text.split([',', ' ', '\t', '\r', '\n']).filter(|entry| !entry.is_empty()) {
            if is_like_network(entry) {
                networks.push(entry);
            } else {
                accounts.insert(entry.as_bytes().to_vec());
            }
        }
        Ok(Self { networks: networks.join(" ").parse()?, accounts })
    }
}

impl ForwardFrom {
    /// Whether the list names this address or this account. The account must have been authenticated. IPv4-mapped IPv6
    /// addresses must be converted to IPv4 before.
    pub(crate) fn names(&self, address: IpAddr, user: &[u8]) -> bool {
        self.networks.contains(address) || self.accounts.contains(user)
    }

    /// Returns the accounts that must exist, sorted. The anonymous user always exists.
    pub(crate) fn accounts(&self) -> Vec<String> {
        let accounts = self.accounts.iter().filter(|user| user.as_slice() != ANONYMOUS.as_bytes());
        let mut accounts: Vec<String> =
            accounts.map(|user| String::from_utf8_lossy(user).into_owned()).collect();
        accounts.sort_unstable();
        accounts
    }

    /// Returns the entries that name strangers, and thus possibly servers that this one forwards to.
    pub(crate) fn strangers(&self) -> Vec<String> {
        let anonymous = self.accounts.contains(ANONYMOUS.as_bytes()).then(|| ANONYMOUS.to_owned());
        anonymous.into_iter().chain(self.networks.whole_families()).collect()
    }

    /// The networks, whose entries may have been widened.
    pub(crate) fn networks(&self) -> &Networks {
        &self.networks
    }
}

/// Whether an entry is a network, possibly mistyped. The names of accounts contain no slashes or colons in practice, and
/// are not made of digits and dots.
fn is_like_network(entry: &str) -> bool {
    let is_like_ipv4 = entry.contains('.') && entry.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_like_ipv4 || entry.contains(['/', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_accounts_are_told_apart() {
        let from: ForwardFrom = "192.0.2.0/24, bob\t2001:db8::1 eve".parse().unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(from.names(address("192.0.2.9"), b""));
        assert!(from.names(address("2001:db8::1"), b""));
        assert!(from.names(address("::1"), b"bob") && from.names(address("::1"), b"eve"));
        assert!(!from.names(address("::1"), b"Bob") && !from.names(address("198.51.100.1"), b""));
        for mistyped in ["192.0.2.0/99", "10.0.0.256", "192.168.1", "192.168.1.", "1.2.3.4.5", "2001:db8:"] {
            assert!(mistyped.parse::<ForwardFrom>().is_err(), "{mistyped}");
        }
        assert!(!"".parse::<ForwardFrom>().unwrap().names(address("::1"), b""));
        let from: ForwardFrom = "eve anonymous 10023, mx1.example.org".parse().unwrap();
        assert_eq!(from.accounts(), ["10023", "eve", "mx1.example.org"]);
    }

    #[test]
    fn entries_that_name_strangers_are_found() {
        let strangers = |text: &str| text.parse::<ForwardFrom>().unwrap().strangers();
        assert_eq!(strangers("bob 10.0.0.0/8 Anonymous"), [""; 0]);
        assert_eq!(strangers("::/0 anonymous 0.0.0.0/0"), ["anonymous", "0.0.0.0/0", "::/0"]);
    }
}
