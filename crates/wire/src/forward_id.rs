//! The header `Forward-Id`, which identifies a forwarded request: `<origin>-<number>-<hops>`.
//!
//! Servers that forward to each other recognize by it what they have counted already. It is an extension of pyzord: other
//! servers ignore unknown headers.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest as _, Sha1};

use crate::digest::Digest;
use crate::op::Op;

/// The name of the header.
pub const FORWARD_ID: &str = "Forward-Id";
/// The number of hops from which on a request is counted, and not forwarded any more.
pub const MAX_HOPS: u8 = 16;
/// The number of digits of an origin.
const ORIGIN_DIGITS: usize = 16;

/// Identifies the server that forwarded a report first. Written as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardOrigin(u64);

impl ForwardOrigin {
    /// Returns the origin with this number.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ForwardOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOrigin;

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 16 hexadecimal digits")
    }
}

impl std::error::Error for InvalidOrigin {}

impl FromStr for ForwardOrigin {
    type Err = InvalidOrigin;

    /// Parses exactly 16 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let is_hex = text.len() == ORIGIN_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(InvalidOrigin)
    }
}

/// Identifies a forwarded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardId {
    /// The server that forwarded the reports first.
    pub origin: ForwardOrigin,
    /// The number of the request. No two requests of an origin have the same one.
    pub number: u64,
    /// The number of servers that have forwarded the request: 1 from the origin itself, and one more from each server
    /// that passes it on. At most 255.
    pub hops: u8,
}

impl ForwardId {
    /// Parses the value of the header. Returns none if it is not exactly an origin, a decimal number below 2^64 and a
    /// number of hops from 1 to 255, without signs or leading zeros, with hyphens between.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split('-');
        let origin = parts.next()?.parse().ok()?;
        let number = decimal(parts.next()?)?;
        let hops = u8::try_from(decimal(parts.next()?)?).ok().filter(|hops| *hops > 0)?;
        parts.next().is_none().then_some(Self { origin, number, hops })
    }

    /// Returns the id under which the next server passes the request on; none if it has made too many hops.
    pub fn next_hop(self) -> Option<Self> {
        (self.hops < MAX_HOPS).then(|| Self { hops: self.hops + 1, ..self })
    }

    /// Returns a hash of the id, the operation and the digests, but not of the hops. A server remembers it: only a
    /// request for the same digests can be mistaken for a known one.
    pub fn key(&self, op: Op, digests: &[Digest]) -> Digest {
        let mut hash = Sha1::new();
        hash.update(format!("{}-{}\n{op}\n", self.origin, self.number));
        for digest in digests {
            hash.update(digest.as_bytes());
        }
        Digest::from_bytes(hash.finalize().into())
    }
}

impl fmt::Display for ForwardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.origin, self.number, self.hops)
    }
}

/// Parses a decimal number without sign or leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_read_as_it_is_written() {
        for text in ["0123456789abcdef-0-1", "ffffffffffffffff-18446744073709551615-255"] {
            assert_eq!(ForwardId::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        assert_eq!(ForwardId::parse(b"0123456789ABCDEF-7-2").unwrap().to_string(), "0123456789abcdef-7-2");
    }

    #[test]
    fn everything_else_is_no_id() {
        for text in [
            "",
            "0123456789abcdef",
            "0123456789abcdef-1",
            "0123456789abcdef-1-",
            "0123456789abcdef--1",
            "0123456789abcdef-1-0",
            "0123456789abcdef-1-256",
            "0123456789abcdef-01-1",
            "0123456789abcdef-+1-1",
            "0123456789abcdef-18446744073709551616-1",
            "0123456789abcde-1-1",
            "0123456789abcdefa-1-1",
            "0123456789abcdeg-1-1",
            "0123456789abcdef-1-1-1",
            " 0123456789abcdef-1-1",
            "0123456789abcdef-1-1 ",
        ] {
            assert_eq!(ForwardId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn key_depends_on_everything_but_the_hops() {
        let id = ForwardId { origin: ForwardOrigin::from_number(1), number: 2, hops: 3 };
        let digests = [Digest::from_bytes([1; 20]), Digest::from_bytes([2; 20])];
        let key = id.key(Op::Report, &digests);
        assert_eq!(id.next_hop().unwrap().key(Op::Report, &digests), key);
        for other in [
            ForwardId { number: 3, ..id }.key(Op::Report, &digests),
            ForwardId { origin: ForwardOrigin::from_number(2), ..id }.key(Op::Report, &digests),
            id.key(Op::Whitelist, &digests),
            id.key(Op::Report, &digests[..1]),
            id.key(Op::Report, &[digests[1], digests[0]]),
        ] {
            assert_ne!(other, key);
        }
    }

    #[test]
    fn last_hop_has_no_next_one() {
        let id = ForwardId { origin: ForwardOrigin::from_number(1), number: 2, hops: MAX_HOPS - 1 };
        let last = id.next_hop().unwrap();
        assert_eq!((last.hops, last.next_hop()), (MAX_HOPS, None));
        assert_eq!(ForwardId { hops: 255, ..id }.next_hop(), None);
    }
}
