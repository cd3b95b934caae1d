//! Lists of networks, as in `AllowNetworks`.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// A list of networks, parsed from addresses or `address/bits` separated by commas or blanks.
///
/// Look-ups take logarithmic time, so a list may have thousands of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
    /// Entries with bits set beyond the prefix length: as written, and as interpreted.
    widened: Vec<(String, String)>,
}

/// An entry of a list that is not a network.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "'{}' is not a network: expected an address like 192.0.2.1, or 192.0.2.0/24, or 2001:db8::/32",
    .0.escape_debug()
)]
pub(crate) struct NetworksError(String);

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let mut networks = Self::default();
        for written in text.split([',', ' ', '\t', '\r', '\n']).filter(|entry| !entry.is_empty()) {
            let network = written
                .parse::<IpNet>()
                .or_else(|_| written.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| NetworksError(written.to_owned()))?;
            let taken = unmapped(network).trunc();
            if unmapped(network) != taken {
                networks.widened.push((written.to_owned(), taken.to_string()));
            }
            match taken {
                IpNet::V4(network) => networks.v4.push(network),
                IpNet::V6(network) => networks.v6.push(network),
            }
        }
        // Separators alone are an error, because an empty list means all networks.
        if networks.is_empty() && !text.trim().is_empty() {
            return Err(NetworksError(text.trim().to_owned()));
        }
        // Sorted and disjoint, so that a binary search finds the only network that can contain an address.
        networks.v4 = Ipv4Net::aggregate(&networks.v4);
        networks.v6 = Ipv6Net::aggregate(&networks.v6);
        networks.v4.sort_unstable();
        networks.v6.sort_unstable();
        Ok(networks)
    }
}

impl Networks {
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether a network contains the address. IPv4-mapped IPv6 addresses must be converted to IPv4 before.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                search(&self.v4, |network| network.network() <= address, |network| network.contains(&address))
            }
            IpAddr::V6(address) => {
                search(&self.v6, |network| network.network() <= address, |network| network.contains(&address))
            }
        }
    }

    /// The networks that contain all addresses of a family.
    pub(crate) fn whole_families(&self) -> impl Iterator<Item = String> {
        let v4 = self.v4.iter().filter(|network| network.prefix_len() == 0).map(ToString::to_string);
        v4.chain(self.v6.iter().filter(|network| network.prefix_len() == 0).map(ToString::to_string))
    }

    /// The entries with bits set beyond the prefix length: as written, and as interpreted.
    pub(crate) fn widened(&self) -> impl Iterator<Item = (&str, &str)> {
        self.widened.iter().map(|(written, taken)| (written.as_str(), taken.as_str()))
    }
}

fn search<N>(networks: &[N], starts_before: impl Fn(&N) -> bool, contains: impl Fn(&N) -> bool) -> bool {
    let after = networks.partition_point(starts_before);
    after > 0 && contains(&networks[after - 1])
}

/// Converts a network of IPv4-mapped IPv6 addresses to IPv4.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    if let IpNet::V6(inner) = network
        && let Some(bits) = inner.prefix_len().checked_sub(MAPPED)
        && let Some(address) = inner.addr().to_ipv4_mapped()
        && let Ok(outer) = Ipv4Net::new(address, bits)
    {
        return IpNet::V4(outer);
    }
    network
}

/// Returns the network of an address as text.
pub(super) fn network(address: IpAddr, width: u8) -> String {
    IpNet::new(address, width).map_or_else(|_| address.to_string(), |network| network.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn contains(list: &str, address: &str) -> bool {
        list.parse::<Networks>().unwrap().contains(address.parse::<IpAddr>().unwrap().to_canonical())
    }

    #[test]
    fn networks_of_both_families_contain_their_addresses() {
        let list = "192.0.2.7, 10.0.0.0/8\t2001:db8::/32,, 127.0.0.1";
        for inside in ["192.0.2.7", "10.0.0.0", "10.255.255.255", "2001:db8:ffff::1", "::ffff:10.1.2.3"] {
            assert!(contains(list, inside), "{inside}");
        }
        for outside in
            ["192.0.2.6", "192.0.2.8", "9.255.255.255", "11.0.0.0", "2001:db9::", "::1", "::10.1.2.3"]
        {
            assert!(!contains(list, outside), "{outside}");
        }
        assert!("".parse::<Networks>().unwrap().is_empty() && !contains("", "192.0.2.7"));
    }

    #[test]
    fn mapped_ipv4_is_ipv4_and_a_default_route_covers_one_family() {
        assert!(contains("::ffff:192.0.2.0/120", "192.0.2.9"));
        assert!(contains("::ffff:0:0/96", "192.0.2.9") && !contains("::ffff:0:0/96", "::1"));
        assert!(contains("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(contains("0.0.0.0/0", "::ffff:192.0.2.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && !contains("::/0", "192.0.2.1"));
    }

    #[test]
    fn nested_and_adjacent_networks_are_merged_correctly() {
        let list = "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 11.0.0.0/9 11.128.0.0/9 9.9.9.9";
        for inside in ["10.0.0.1", "10.1.0.0", "10.1.2.3", "10.200.0.0", "11.1.1.1", "11.200.0.1", "9.9.9.9"]
        {
            assert!(contains(list, inside), "{inside}");
        }
        assert!(!contains(list, "12.0.0.0") && !contains(list, "9.9.9.8"));
    }

    #[test]
    fn bits_beyond_the_length_are_reported_and_other_text_is_refused() {
        let networks: Networks = "192.0.2.17/24".parse().unwrap();
        assert_eq!(networks.widened().collect::<Vec<_>>(), [("192.0.2.17/24", "192.0.2.0/24")]);
        for wrong in ["192.0.2", "192.0.2.0/33", "2001:db8::/129", "example.org", "192.0.2.0/", "10.0.0.0/8;"]
        {
            assert_eq!(
                format!("10.0.0.0/8 {wrong}").parse::<Networks>(),
                Err(NetworksError(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn whole_families_are_found_however_they_are_written() {
        let whole = |list: &str| list.parse::<Networks>().unwrap().whole_families().collect::<Vec<_>>();
        assert_eq!(whole("0.0.0.0/1 10.0.0.0/8 128.0.0.0/1"), ["0.0.0.0/0"]);
        assert_eq!(whole("::/0, ::ffff:1.2.3.4/96"), ["0.0.0.0/0", "::/0"]);
        assert_eq!(whole("0.0.0.0/1 ::/1 127.0.0.1"), [""; 0]);
    }

    #[test]
    fn separators_alone_are_refused() {
        assert_eq!("".parse(), Ok(Networks::default()));
        assert_eq!(" ".parse(), Ok(Networks::default()));
        assert_eq!(" , ".parse::<Networks>(), Err(NetworksError(",".to_owned())));
    }

    #[test]
    fn long_list_agrees_with_a_linear_search() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let entries: Vec<Ipv4Net> = (0..2000)
            .map(|_| Ipv4Net::new(Ipv4Addr::from_bits(random()), (random() % 25 + 8) as u8).unwrap().trunc())
            .collect();
        let text = entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let networks: Networks = text.parse().unwrap();
        let mut inside = 0;
        for _ in 0..20_000 {
            let address = Ipv4Addr::from_bits(random());
            let expected = entries.iter().any(|entry| entry.contains(&address));
            inside += usize::from(expected);
            assert_eq!(networks.contains(address.into()), expected, "{address}");
        }
        assert!((1000..19_000).contains(&inside), "{inside}");
        assert!(!networks.contains(Ipv6Addr::LOCALHOST.into()));
    }
}
