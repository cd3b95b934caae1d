//! Accounts, and the signatures of their requests.

use sha1::{Digest, Sha1};

use super::hex;

/// An account of the passwd file.
#[derive(Clone)]
pub(crate) struct Account {
    name: String,
    key: String,
}

impl Account {
    /// An account with a key that is derived from its name.
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, &hex(&Sha1::digest(format!("key of {name}"))))
    }

    /// An account with this key, as written in the passwd file.
    pub(crate) fn with_key(name: &str, key: &str) -> Self {
        Self { name: name.to_owned(), key: key.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Returns the account's line of the passwd file.
    pub(crate) fn passwd(&self) -> String {
        format!("{} : {}\n", self.name, self.key)
    }

    /// Returns the account's line of a client's accounts file for this server, as host and port.
    pub(crate) fn client_line(&self, server: &str) -> String {
        let (host, port) = server.rsplit_once(':').unwrap();
        format!("{host} : {port} : {} : {},{}\n", self.name, "a".repeat(40), self.key)
    }

    /// Returns a signed request with these headers and time.
    pub(crate) fn sign(&self, headers: &str, time: i64) -> Vec<u8> {
        self.sign_dated(headers, &time.to_string(), time)
    }

    /// Returns a signed request whose `Time` header is written as given.
    pub(crate) fn sign_dated(&self, headers: &str, written: &str, time: i64) -> Vec<u8> {
        let signed = format!("{headers}User: {}\nTime: {written}\n", self.name);
        let signature = self.signature(signed.trim(), time);
        format!("{signed}Sig: {signature}\n\n").into_bytes()
    }

    /// Returns the signature of a text that has the form to be signed already.
    pub(crate) fn signature(&self, text: &str, time: i64) -> String {
        let hashed_key = hex(&Sha1::digest(format!("{}:{}", self.name, self.key.to_lowercase())));
        let mut sha1 = Sha1::new();
        sha1.update(Sha1::digest(text));
        sha1.update(format!(":{time}:{hashed_key}"));
        hex(&sha1.finalize())
    }
}
