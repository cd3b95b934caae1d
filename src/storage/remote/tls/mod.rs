//! TLS connections to stores: trusted certificates, and error messages.

mod keys;
mod verifier;
mod words;

use std::env;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, RootCertStore};

pub(crate) use keys::{AcceptedKeys, trusting};
pub(crate) use words::{in_words, is_another_key};

use super::start::ConnectError;
use crate::os::open;
use verifier::CertificateVerifier;

/// The TLS settings of `DigestDB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The PEM file of the certificates to trust (`ca=`); none: the system's certificates.
    pub(crate) authorities: Option<PathBuf>,
    /// Whether the server's certificate is verified (`verify=`).
    pub(crate) verify: bool,
}

/// The certificates to trust, and the store that verifies those they have issued.
#[derive(Debug)]
pub(crate) struct TrustedCertificates {
    certificates: Vec<CertificateDer<'static>>,
    /// Whether they are from the file that `ca=` names, which may also hold certificates of servers.
    are_named: bool,
    roots: RootCertStore,
}

impl Tls {
    /// Reads the certificates to trust. Without any, `verify=yes` is an error.
    pub(crate) fn authorities(&self) -> Result<TrustedCertificates, ConnectError> {
        let Some(path) = &self.authorities else {
            let authorities = TrustedCertificates::of_the_system()?;
            if authorities.certificates.is_empty() && self.verify {
                return Err(ConnectError::permanent(
                    "the system has no certificates to trust: install ca-certificates, or name a file with ca=",
                ));
            }
            return Ok(authorities);
        };
        let mut content = Vec::new();
        open::to_read(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .map_err(|error| unreadable(path, &error))?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let problem = match certificates {
            Ok(certificates) if certificates.is_empty() => "has no certificates",
            Ok(certificates) => return TrustedCertificates::named(certificates),
            Err(_) => "is corrupt",
        };
        let path = path.display();
        Err(ConnectError::permanent(format!(
            "the file {path} that ca= names {problem}: name a PEM file of certificates"
        )))
    }

    /// Returns a client configuration that accepts trusted servers, or any server with `verify=no`.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let authorities = self.authorities()?;
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let trusted = if self.verify {
            let roots = Arc::new(authorities.roots.clone());
            let issued = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some((authorities, issued.map_err(|error| ConnectError::permanent(error.to_string()))?))
        } else {
            None
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(CertificateVerifier { trusted, algorithms }))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

impl TrustedCertificates {
    fn named(certificates: Vec<CertificateDer<'static>>) -> Result<Self, ConnectError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
        }
        Ok(Self { certificates, are_named: true, roots })
    }

    fn of_the_system() -> Result<Self, ConnectError> {
        let mut roots = RootCertStore::empty();
        let mut certificates = system_certificates()?;
        // Skips certificates that rustls cannot use.
        certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
        Ok(Self { certificates, are_named: false, roots })
    }

    /// Returns the certificates as authorities.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns the certificates that a server may present as its own. A certificate that the operator has named with
    /// `ca=` needs no issuer, even if it is marked as an authority's (`CA:TRUE`).
    fn of_servers(&self) -> &[CertificateDer<'static>] {
        if self.are_named { &self.certificates } else { &[] }
    }

    /// Returns the public keys of the certificates that `host` may present as its own.
    pub(crate) fn keys_of(&self, host: &str) -> AcceptedKeys {
        let Ok(name) = ServerName::try_from(host) else { return AcceptedKeys::default() };
        let parsed = self.of_servers().iter().filter_map(|one| ParsedCertificate::try_from(one).ok());
        parsed
            .filter(|certificate| verify_server_name(certificate, &name).is_ok())
            .map(|certificate| certificate.subject_public_key_info())
            .collect()
    }
}

/// Returns the name that the certificate of `host` must have.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(host.to_owned()).map_err(|_| no_name())
}

/// The error for a host name that no certificate can have.
pub(crate) fn no_name() -> ConnectError {
    ConnectError::permanent(
        "a certificate cannot have this host name: use another name or address in DigestDB",
    )
}

/// The error for a certificate of `ca=` that rustls cannot use.
pub(crate) fn unusable(error: &rustls::Error) -> ConnectError {
    let why = in_words(error).unwrap_or_else(|| error.to_string());
    ConnectError::permanent(format!("a certificate to trust cannot be used: {why}"))
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    // load_native_certs reads this file, and would block on a FIFO.
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    if let Some(path) = named
        && let Err(error) = open::to_read(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(unreadable(&path, &error));
    }
    Ok(rustls_native_certs::load_native_certs().certs)
}

fn unreadable(path: &Path, error: &io::Error) -> ConnectError {
    ConnectError::permanent(format!("cannot read the certificates to trust in {}: {error}", path.display()))
}
