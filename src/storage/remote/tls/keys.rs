//! Accepts servers by their keys in `mysql_async`, which takes no certificate verifier.
//!
//! That library verifies the certificate of a server, which fails for one of an authority (`CA:TRUE`), or accepts
//! any. In both cases it verifies that the server has the certificate's key, with the algorithms of the process's
//! `CryptoProvider`. Those are replaced here by ones that accept the keys alone that are accepted for this
//! connection. A connection made without [`trusting`] accepts no key at all, so that none is accepted by mistake.

use std::future::Future;
use std::sync::OnceLock;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer,
};
use rustls::sign::public_key_to_spki;

use crate::storage::remote::start::ConnectError;

/// Public keys of servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct AcceptedKeys(Vec<SubjectPublicKeyInfoDer<'static>>);

impl AcceptedKeys {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<SubjectPublicKeyInfoDer<'static>> for AcceptedKeys {
    fn from_iter<T: IntoIterator<Item = SubjectPublicKeyInfoDer<'static>>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}

tokio::task_local! {
    /// The keys that servers may have to which connections are made; none: any.
    static ACCEPTED: Option<AcceptedKeys>;
}

/// Makes a connection, to a server with one of `keys` if there are any named.
pub(crate) async fn trusting<T>(
    keys: Option<AcceptedKeys>,
    connecting: impl Future<Output = T>,
) -> Result<T, ConnectError> {
    static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
    if !*IS_INSTALLED.get_or_init(|| provider().install_default().is_ok()) {
        return Err(ConnectError::permanent(
            "TLS cannot be used: another part of this program has set it up already",
        ));
    }
    Ok(ACCEPTED.scope(keys, connecting).await)
}

/// Ring, with algorithms that look at the key as well.
fn provider() -> CryptoProvider {
    let ring = ring::default_provider();
    let algorithms = ring.signature_verification_algorithms;
    let checking = |all: &[Algorithm]| -> &'static [Algorithm] {
        let checking =
            all.iter().map(|algorithm| -> Algorithm { Box::leak(Box::new(CheckedAlgorithm(*algorithm))) });
        Box::leak(checking.collect())
    };
    let mapping = algorithms.mapping.iter().map(|(scheme, all)| (*scheme, checking(all)));
    let signature_verification_algorithms =
        WebPkiSupportedAlgorithms { all: checking(algorithms.all), mapping: Box::leak(mapping.collect()) };
    CryptoProvider { signature_verification_algorithms, ..ring }
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// An algorithm that accepts no signature of a key that is not accepted.
#[derive(Debug)]
struct CheckedAlgorithm(Algorithm);

impl SignatureVerificationAlgorithm for CheckedAlgorithm {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let is_accepted = ACCEPTED.try_with(|accepted| match accepted {
            Some(keys) => keys.0.contains(&public_key_to_spki(&self.0.public_key_alg_id(), key)),
            None => true,
        });
        if !is_accepted.unwrap_or(false) {
            return Err(InvalidSignature);
        }
        self.0.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}
