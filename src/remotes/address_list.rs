//! The addresses of one server, of which one is in use.

use std::net::SocketAddr;

/// Addresses in the order of the resolver. All of them are tried in turn.
#[derive(Debug, Default)]
pub(crate) struct AddressList {
    addresses: Vec<SocketAddr>,
    /// The position of the address in use.
    index: usize,
}

impl AddressList {
    /// Replaces the addresses. If `used` is not among them, the next one is the first. Returns whether there are others
    /// than before.
    pub(crate) fn replace(&mut self, addresses: Vec<SocketAddr>, used: Option<SocketAddr>) -> bool {
        if self.addresses == addresses {
            return false;
        }
        let is_changed = addresses.len() != self.addresses.len()
            || addresses.iter().any(|new| !self.addresses.contains(new));
        let position = used.and_then(|used| addresses.iter().position(|other| *other == used));
        self.index = position.unwrap_or(addresses.len().saturating_sub(1));
        self.addresses = addresses;
        is_changed
    }

    /// Whether the address is one of them.
    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The number of addresses.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether the address in use is the last one.
    pub(crate) fn is_at_last(&self) -> bool {
        self.index + 1 >= self.addresses.len()
    }

    /// Proceeds to the next address, which is the first one after the last. Returns none if there is no address.
    pub(crate) fn advance(&mut self) -> Option<SocketAddr> {
        self.index = (self.index + 1).checked_rem(self.addresses.len())?;
        self.addresses.get(self.index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_in_use_keeps_its_place_and_unknown_ones_begin_with_the_first() {
        let [a, b, c] = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|text| text.parse().unwrap());
        let mut list = AddressList::default();
        assert_eq!((list.advance(), list.is_at_last()), (None, true));
        assert!(list.replace(vec![a, b], None));
        assert_eq!([list.advance(), list.advance(), list.advance()], [Some(a), Some(b), Some(a)]);
        assert!(!list.replace(vec![b, a], Some(a)), "the same in another order");
        assert!(list.is_at_last());
        assert!(list.replace(vec![b, c], Some(a)));
        assert_eq!((list.advance(), list.len()), (Some(b), 2));
    }
}
