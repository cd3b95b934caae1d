//! Classifies the keys of a source.

use pyzor_wire::digest::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceKey {
    /// A digest in lower case.
    Regular(Digest),
    /// Another spelling of a digest: in upper case, in quotes or with blanks behind it. The source may have several
    /// keys for the digest.
    Odd(Digest),
    /// Not a digest.
    Foreign,
}

/// Classifies a key. Digests in quotes, as `b'…'`, were written by the Python `pyzor-migrate` from gdbm to Redis.
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
    fn digests_are_recognised_in_every_spelling() {
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
