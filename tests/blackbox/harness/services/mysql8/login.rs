//! Logins of clients, and the proofs of their passwords.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::PASSWORD;

/// The server's challenge for the proof of a password. Each greeting and each switch of plugins has a new one.
pub(crate) type Nonce = [u8; 20];

pub(crate) const CONNECT_WITH_DB: u32 = 1 << 3;

/// The client's handshake response.
pub(crate) struct Login {
    pub(crate) capabilities: u32,
    pub(crate) user: String,
    pub(crate) proof: Vec<u8>,
    /// The challenge that the proof answers.
    pub(crate) nonce: Nonce,
    pub(crate) database: String,
}

impl Login {
    pub(crate) fn parse(content: &[u8], nonce: Nonce) -> Self {
        let capabilities = u32::from_le_bytes(content[..4].try_into().unwrap());
        let mut rest = &content[32..];
        let mut text = || {
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            let text = String::from_utf8(rest[..end].to_vec()).unwrap();
            rest = &rest[end + 1..];
            text
        };
        let user = text();
        let length = usize::from(rest[0]);
        let proof = rest[1..=length].to_vec();
        rest = &rest[1 + length..];
        let text = || {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            String::from_utf8(rest[..end].to_vec()).unwrap()
        };
        let database = if capabilities & CONNECT_WITH_DB == 0 { String::new() } else { text() };
        Self { capabilities, user, proof, nonce, database }
    }
}

/// The error for a client that sends its password unencrypted over TCP.
pub(crate) fn disclosed() -> std::io::Error {
    std::io::Error::other("the client has sent its password unencrypted over TCP")
}

/// Returns SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce).
pub(crate) fn caching_proof(nonce: &Nonce) -> Vec<u8> {
    let once = Sha256::digest(PASSWORD);
    let mask = Sha256::new().chain_update(Sha256::digest(once)).chain_update(nonce).finalize();
    xor(&once, &mask)
}

/// Returns SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password))).
pub(crate) fn native_proof(nonce: &Nonce) -> Vec<u8> {
    let sha1 = |content: &[u8]| <Sha1 as sha1::Digest>::digest(content).to_vec();
    let once = sha1(PASSWORD.as_bytes());
    xor(&once, &sha1(&[nonce.as_slice(), &sha1(&once)].concat()))
}

/// Returns the bytes XOR a mask, which is repeated as needed.
pub(crate) fn xor(bytes: &[u8], mask: &[u8]) -> Vec<u8> {
    bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}
