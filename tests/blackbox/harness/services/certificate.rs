//! Certificates for servers that speak TLS, made by an authority of our own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::run;

/// A certificate for `localhost` and 127.0.0.1, its key, and the certificate of the authority that
/// signed it; the files go with this.
pub(crate) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    /// A new authority and a certificate of it.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let certificate = Self { directory };
        certificate.openssl("-keyout ca.key -out ca.pem -subj /CN=authority");
        certificate.openssl(
            "-keyout server.key -out server.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
             -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=CA:FALSE",
        );
        certificate
    }

    /// A certificate that signs itself, as the plain `openssl req -x509` makes it: one of an authority, or not.
    pub(crate) fn of_itself(is_authority: bool) -> Self {
        Self::with_key("ec -pkeyopt ec_paramgen_curve:prime256v1", is_authority)
    }

    /// A certificate of an authority that signs itself, with an RSA key.
    pub(crate) fn of_itself_with_rsa() -> Self {
        Self::with_key("rsa:2048", true)
    }

    fn with_key(key: &str, is_authority: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let certificate = Self { directory };
        let extension = if is_authority { "" } else { "-addext basicConstraints=critical,CA:FALSE" };
        let arguments = format!(
            "-keyout server.key -out server.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
             {extension}"
        );
        certificate.openssl_with(key, &arguments);
        certificate
    }

    /// The certificate of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The certificate of the server.
    pub(crate) fn server(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    /// A file of the authority's certificate and of the server's of `other`.
    pub(crate) fn authority_and(&self, other: &Self) -> PathBuf {
        let both = self.directory.path().join("both.pem");
        let read = |path| fs::read_to_string(path).unwrap();
        fs::write(&both, read(self.authority()) + &read(other.server())).unwrap();
        both
    }

    /// Its key.
    pub(crate) fn key(&self) -> PathBuf {
        self.directory.path().join("server.key")
    }

    fn openssl(&self, arguments: &str) {
        self.openssl_with("ec -pkeyopt ec_paramgen_curve:prime256v1", arguments);
    }

    fn openssl_with(&self, key: &str, arguments: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-days", "2", "-nodes", "-newkey"]).args(key.split_whitespace());
        openssl.args(arguments.split_whitespace());
        let output = run(openssl.current_dir(self.directory.path()), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
