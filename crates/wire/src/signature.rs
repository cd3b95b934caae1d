//! Keys and signatures.

use std::fmt;

use sha1::{Digest as _, Sha1};
use subtle::ConstantTimeEq;

use crate::digest::{HEX_LEN, hex};
use crate::number::push_number;

/// The hash of an account name and its key from the passwd file, which is enough to sign.
#[derive(Clone)]
pub struct KeyHash([u8; HEX_LEN]);

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl KeyHash {
    /// Returns the hash for an account. The name is case-sensitive, the key is not.
    pub fn new(user: &str, key: &str) -> Self {
        let mut text = format!("{user}:").into_bytes();
        text.extend(key.bytes().map(|byte| byte.to_ascii_lowercase()));
        Self(hex(&Sha1::digest(text).into()))
    }

    /// Returns the signature of a text signed at `time`, in seconds since the Unix epoch.
    pub fn sign(&self, text: &[u8], time: i64) -> [u8; HEX_LEN] {
        let mut inner = Vec::with_capacity(20 + 1 + 20 + 1 + HEX_LEN);
        inner.extend_from_slice(&Sha1::digest(text));
        inner.push(b':');
        push_number(&mut inner, time);
        inner.push(b':');
        inner.extend_from_slice(&self.0);
        hex(&Sha1::digest(inner).into())
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// Compares a received signature with the expected one in constant time.
pub fn equal(received: &[u8], expected: &[u8; HEX_LEN]) -> bool {
    received.ct_eq(expected).into()
}
