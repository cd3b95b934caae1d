//! Certificates for servers that speak TLS, made by an authority of our own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::run;

/// A certificate for `localhost` and 127.0.0.1, its key, and the certificate of the authority that
/// signed it; the files go with this.
pub(crate) struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// A new authority and a certificate of it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let certificate = Self { folder };
        certificate.openssl("-keyout ca.key -out ca.pem -subj /CN=authority");
        certificate.openssl(
            "-keyout server.key -out server.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
             -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=CA:FALSE",
        );
        certificate
    }

    /// A certificate that signs itself, as the plain `openssl req -x509` makes it: one of an authority, or not.
    pub(crate) fn of_itself(is_authority: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let certificate = Self { folder };
        let extension = if is_authority { "" } else { "-addext basicConstraints=critical,CA:FALSE" };
        certificate.openssl(&format!(
            "-keyout server.key -out server.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
             {extension}"
        ));
        certificate
    }

    /// The certificate of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate of the server.
    pub(crate) fn server(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// Its key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-days", "2", "-nodes", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]).args(arguments.split_whitespace());
        let output = run(openssl.current_dir(self.folder.path()), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
