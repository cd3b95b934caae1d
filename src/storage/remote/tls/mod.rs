//! Encrypted connections to stores: which servers are trusted, and what a failure means.

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

/// How a server proves its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The PEM file of the certificates to trust (`ca=`); without one, those that the system trusts.
    pub(crate) authorities: Option<PathBuf>,
    /// Whether it has to.
    pub(crate) verify: bool,
}

/// The certificates that are trusted.
#[derive(Debug)]
pub(crate) struct TrustedCertificates {
    certificates: Vec<CertificateDer<'static>>,
    /// Whether they are those of the file that `ca=` names, which may be those of servers as well.
    are_named: bool,
    roots: RootCertStore,
}

impl Tls {
    /// Reads the certificates that are trusted: at least one, unless the server need not prove its identity.
    pub(crate) fn authorities(&self) -> Result<TrustedCertificates, ConnectError> {
        let Some(path) = &self.authorities else {
            let authorities = TrustedCertificates::of_the_system()?;
            if authorities.certificates.is_empty() && self.verify {
                return Err(ConnectError::permanent(
                    "the system has no certificates to trust: install ca-certificates, or name some with ca=",
                ));
            }
            return Ok(authorities);
        };
        let mut content = Vec::new();
        open::to_read(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .map_err(|error| unreadable(path, &error))?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let what = match certificates {
            Ok(certificates) if certificates.is_empty() => "has no certificates",
            Ok(certificates) => return TrustedCertificates::named(certificates),
            Err(_) => "is damaged",
        };
        let path = path.display();
        Err(ConnectError::permanent(format!(
            "the file {path} that ca= names {what}: name a PEM file of certificates"
        )))
    }

    /// The configuration of a client that accepts the servers that are trusted.
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
        // One that is of no use does not keep the others from being used.
        certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
        Ok(Self { certificates, are_named: false, roots })
    }

    /// Those whose issuing of others is trusted.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificates that a server may show as its own. A certificate that the operator has named needs no
    /// signature of another, also where it says of itself that it is one of an authority.
    fn of_servers(&self) -> &[CertificateDer<'static>] {
        if self.are_named { &self.certificates } else { &[] }
    }

    /// The keys of those that `host` may show as its own.
    pub(crate) fn keys_of(&self, host: &str) -> AcceptedKeys {
        let Ok(name) = ServerName::try_from(host) else { return AcceptedKeys::default() };
        let parsed = self.of_servers().iter().filter_map(|one| ParsedCertificate::try_from(one).ok());
        parsed
            .filter(|certificate| verify_server_name(certificate, &name).is_ok())
            .map(|certificate| certificate.subject_public_key_info())
            .collect()
    }
}

/// The name that a certificate must have for `host`.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(host.to_owned()).map_err(|_| no_name())
}

/// Says that the name of a host cannot be that of a certificate.
pub(crate) fn no_name() -> ConnectError {
    ConnectError::permanent("its host is no name that a certificate can have: name it otherwise in DigestDB")
}

/// Says that a certificate cannot be trusted as it is.
pub(crate) fn unusable(error: &rustls::Error) -> ConnectError {
    let why = in_words(error).unwrap_or_else(|| error.to_string());
    ConnectError::permanent(format!("a certificate to trust cannot be used: {why}"))
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    // The library reads it, and would wait for a pipe.
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
