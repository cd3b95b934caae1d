//! The message digest: the key of every record.

use std::fmt;

/// The digest of a message as computed by Pyzor clients: the 20 bytes of a SHA-1.
///
/// Written as 40 hexadecimal digits in the protocol and in every database: lower case when written, either case when
/// read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 20]);

/// The length of a digest as hexadecimal text.
pub const HEX_LEN: usize = 40;

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Digest {
    /// Returns the digest with these bytes.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Parses exactly 40 hexadecimal digits of either case.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let text: &[u8; HEX_LEN] = text.try_into().ok()?;
        let mut bytes = [0; 20];
        let mut all = 0;
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
            *byte = high << 4 | low & 15;
            all |= high | low;
        }
        // Checked once at the end: a branch per digit would cost more than the rest of the function.
        (all < NO_DIGIT).then_some(Self(bytes))
    }

    /// The bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The first eight bytes as a number in native byte order.
    pub fn prefix(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// Returns the digest as 40 lower-case hexadecimal digits.
    pub fn to_hex(self) -> [u8; HEX_LEN] {
        hex(&self.0)
    }
}

/// Returns the bytes of a SHA-1 as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8; 20]) -> [u8; HEX_LEN] {
    let mut text = [0; HEX_LEN];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text
}

/// The values of hexadecimal digits by character; `NO_DIGIT` for other characters.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = HEX[value];
        nibbles[digit as usize] = value as u8;
        nibbles[digit.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    nibbles
};
const NO_DIGIT: u8 = 0x80;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_is_converted_to_lower_case() {
        let upper = Digest::from_hex(b"DA39A3EE5E6B4B0D3255BFEF95601890AFD80709").unwrap();
        assert_eq!(&upper.to_hex(), b"da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(upper.to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }

    #[test]
    fn text_other_than_forty_hexadecimal_digits_is_refused() {
        for text in [
            "",
            "da39",
            "da39a3ee5e6b4b0d3255bfef95601890afd8070",
            "da39a3ee5e6b4b0d3255bfef95601890afd807099",
            "ga39a3ee5e6b4b0d3255bfef95601890afd80709",
            " a39a3ee5e6b4b0d3255bfef95601890afd80709",
        ] {
            assert_eq!(Digest::from_hex(text.as_bytes()), None, "{text:?}");
        }
    }
}
