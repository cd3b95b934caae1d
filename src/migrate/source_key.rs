//! What a key of a source is.

use pyzor_wire::digest::Digest;

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceKey {
    /// A digest as it should be written.
    Regular(Digest),
    /// A digest in upper case or quoted, beside which the source may have others for the same digest.
    Odd(Digest),
    /// No digest.
    Foreign,
}

/// Tells what a key is. `b'…'` is what the established server's own migration from gdbm to Redis made
/// of digests.
pub(super) fn classify(key: &[u8]) -> SourceKey {
    let bare = key.strip_prefix(b"b'").and_then(|rest| rest.strip_suffix(b"'"));
    match Digest::from_hex(bare.unwrap_or(key.trim_ascii_end())) {
        Some(digest) if digest.to_hex() == *key => SourceKey::Regular(digest),
        Some(digest) => SourceKey::Odd(digest),
        None => SourceKey::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_recognised_in_every_form() {
        const HEX: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let digest = Digest::from_hex(HEX.as_bytes()).unwrap();
        let upper = HEX.to_uppercase();
        for (key, expected) in [
            (HEX.to_owned(), SourceKey::Regular(digest)),
            (upper.clone(), SourceKey::Odd(digest)),
            (format!("b'{HEX}'"), SourceKey::Odd(digest)),
            (format!("b'{upper}'"), SourceKey::Odd(digest)),
            (format!("{HEX} "), SourceKey::Odd(digest)),
            (format!("b'{HEX}"), SourceKey::Foreign),
            (format!("b\"{HEX}\""), SourceKey::Foreign),
            (HEX[1..].to_owned(), SourceKey::Foreign),
            (String::new(), SourceKey::Foreign),
        ] {
            assert_eq!(classify(key.as_bytes()), expected, "{key}");
        }
    }
}
