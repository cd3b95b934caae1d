//! The senders in `ForwardFrom`: their forwarded requests are passed on although they have no id.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use crate::limits::{Networks, NetworksError};

/// Networks and accounts, parsed from a list with commas or blanks between. What is no network is an account.
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
            // The names of accounts contain no slashes or colons in practice, while a mistyped network does.
            if entry.contains(['/', ':']) || entry.parse::<IpAddr>().is_ok() {
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

    /// The networks, whose entries may have been widened.
    pub(crate) fn networks(&self) -> &Networks {
        &self.networks
    }
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
        assert!("192.0.2.0/99".parse::<ForwardFrom>().is_err());
        assert!(!"".parse::<ForwardFrom>().unwrap().names(address("::1"), b""));
    }
}
