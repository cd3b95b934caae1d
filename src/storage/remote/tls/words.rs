//! Operator messages for TLS errors: what happened, and what to do.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Returns the message for an error that is, or is caused by, a TLS error.
pub(crate) fn in_words(error: &(dyn Error + 'static)) -> Option<String> {
    cause(error).map(|failure| words(failure).to_owned())
}

/// Whether the server was refused because its key is not an accepted one.
pub(crate) fn is_another_key(error: &(dyn Error + 'static)) -> bool {
    matches!(cause(error), Some(TlsError::InvalidCertificate(CertificateError::BadSignature)))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref() {
            return Some(failure);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn words(failure: &TlsError) -> &'static str {
    use CertificateError as Certificate;
    match failure {
        TlsError::InvalidCertificate(error) => match error {
            // BadSignature: the issuer has the name of a trusted authority, but another key.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the server's certificate is not from an authority that is trusted: name the file of the authority's \
                 certificate with ca="
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the server's certificate is for another name: use a name or address of the certificate in DigestDB, \
                 or issue one with this name as subjectAltName"
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the server's certificate has expired: renew it, or correct the clock"
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: correct the clock"
            }
            Certificate::Revoked => "the server's certificate has been revoked: issue another one",
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                "the server's certificate is not for servers: issue one whose extendedKeyUsage is serverAuth"
            }
            Certificate::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is an authority's own, and ca= does not name it for this host: name it with \
                 ca=, or issue one with this host as subjectAltName"
            }
            Certificate::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
                "the server's certificate has an old version: issue one of version 3, with a subjectAltName"
            }
            _ => {
                "the server's certificate cannot be used: issue another one, of version 3, with a subjectAltName"
            }
        },
        TlsError::NoCertificatesPresented => "the server has no certificate: configure one there",
        TlsError::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "the server requires client certificates, which are not supported: turn that off in the server"
        }
        TlsError::AlertReceived(AlertDescription::ProtocolVersion) | TlsError::PeerIncompatible(_) => {
            "the server has only versions of TLS that are insecure: enable TLS 1.2 or 1.3 in the server"
        }
        TlsError::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server requires client certificates, or has no cipher in common with pyzord: turn client certificates \
             off in the server, enable TLS 1.2 or 1.3, and use an RSA, Ed25519, P-256 or P-384 key"
        }
        TlsError::AlertReceived(_) => "the server refused the TLS handshake: see its log",
        TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => {
            "the server does not speak TLS: check host and port in DigestDB, and that TLS is enabled in the server"
        }
        _ => "the TLS handshake failed: check the server's log and its certificate",
    }
}
