//! Verification of servers by their public keys for `mysql_async`, which takes no certificate verifier.
//!
//! `mysql_async` either verifies the server's certificate, which fails if it is an authority's (`CA:TRUE`), or accepts
//! any certificate. In both cases it checks that the server has the certificate's key, with the algorithms of the
//! process's `CryptoProvider`. This module replaces those algorithms by ones that accept only the keys that are
//! allowed for the connection. Connections made outside [`trusting`] accept no key.

use std::future::Future;
use std::sync::OnceLock;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer,
};
use rustls::sign::public_key_to_spki;

use crate::storage::remote::start::ConnectError;

/// The public keys that a server may have.
#[derive(Clone, Debug, Default)]
pub(crate) struct AcceptedKeys(Vec<SubjectPublicKeyInfoDer<'static>>);

impl AcceptedKeys {
    /// Whether no key is accepted.
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
    /// The keys that are accepted for connections made by this task; none: any key.
    static ACCEPTED: Option<AcceptedKeys>;
}

/// Makes a connection to a server that has one of `keys`, or any key if `keys` is none.
pub(crate) async fn trusting<T>(
    keys: Option<AcceptedKeys>,
    connecting: impl Future<Output = T>,
) -> Result<T, ConnectError> {
    static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
    if !*IS_INSTALLED.get_or_init(|| provider().install_default().is_ok()) {
        return Err(ConnectError::permanent(
            "cannot set up TLS: the process has another rustls CryptoProvider already",
        ));
    }
    Ok(ACCEPTED.scope(keys, connecting).await)
}

/// Returns ring's provider with algorithms that also check the key.
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

/// A signature algorithm that refuses keys not in [`ACCEPTED`].
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
