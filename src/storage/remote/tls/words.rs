//! What a TLS failure means, in words, and what to do.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Says what is wrong and what to do, where an error or what caused it is a failure of TLS.
pub(crate) fn in_words(error: &(dyn Error + 'static)) -> Option<String> {
    cause(error).map(|failure| words(failure).to_owned())
}

/// Whether a server has shown that it has another key than those that are accepted.
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
            // One that has the name of a trusted authority, and another key.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the server's certificate is not from an authority that is trusted: name the file of its authority's \
                 certificate with ca="
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the server's certificate is for another name: use a name or address that it has, or make one with this \
                 name as its subjectAltName"
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the server's certificate has expired: renew it, or set the clock"
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: set the clock"
            }
            Certificate::Revoked => "the server's certificate has been revoked: make another one",
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                "the server's certificate is not for servers: make one whose extendedKeyUsage is serverAuth"
            }
            Certificate::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is one of an authority itself, and not one that ca= names for this host: name \
                 it with ca=, or make one with this host as its subjectAltName"
            }
            Certificate::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
                "the server's certificate is of an old version: make one of version 3, with a subjectAltName"
            }
            _ => {
                "the server's certificate cannot be used: make another one, of version 3, with a subjectAltName"
            }
        },
        TlsError::NoCertificatesPresented => "the server shows no certificate: set up one there",
        TlsError::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "the server wants a certificate of its clients, and there is none: it must not ask for one"
        }
        TlsError::AlertReceived(AlertDescription::ProtocolVersion) | TlsError::PeerIncompatible(_) => {
            "the server speaks no TLS that is secure by today's rules: let it speak TLS 1.2 or 1.3"
        }
        TlsError::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server wants a certificate of its clients, or has no way of encryption in common with this one: it must not \
             ask for certificates, must use TLS 1.2 or 1.3, and have a key of RSA, Ed25519 or the curves P-256 or P-384"
        }
        TlsError::AlertReceived(_) => "the server has refused TLS: see its log",
        TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => {
            "what answers there does not speak TLS: see that host and port are the server's, and that TLS is on there"
        }
        _ => "TLS has failed: see the server's log and its certificate",
    }
}
