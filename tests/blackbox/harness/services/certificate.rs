//! Certificates for servers with TLS, issued by a test authority.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::run;

/// A certificate for `localhost` and 127.0.0.1, its key, and its authority's certificate. The files are removed on
/// drop.
pub(crate) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    /// Creates an authority and a certificate that it issues.
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

    /// Creates a self-signed certificate, marked as an authority's (the default of `openssl req -x509`) or not.
    pub(crate) fn of_itself(is_authority: bool) -> Self {
        Self::with_key("ec -pkeyopt ec_paramgen_curve:prime256v1", is_authority)
    }

    /// Creates a self-signed certificate with an RSA key, marked as an authority's.
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

    /// Returns the authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Returns the server's certificate.
    pub(crate) fn server(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    /// Returns a file with this authority's certificate and the server's certificate of `other`.
    pub(crate) fn authority_and(&self, other: &Self) -> PathBuf {
        let both = self.directory.path().join("both.pem");
        let read = |path| fs::read_to_string(path).unwrap();
        fs::write(&both, read(self.authority()) + &read(other.server())).unwrap();
        both
    }

    /// Returns the server's private key.
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
