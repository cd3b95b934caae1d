//! A slow model of the handler and of access control.

use std::net::SocketAddr;

use sha1::{Digest as _, Sha1};

use crate::access::fuzzing::{ACCOUNTS, FILES, model_grants};
use crate::fuzz_models::{ModelMessage, model_integer, model_version};
use crate::record::Timestamp;
use pyzor_wire::digest::Digest;
use pyzor_wire::number::VersionError;
use pyzor_wire::op::Op;
use pyzor_wire::reply::Refusal;

/// The verdict of the model on a request.
#[derive(Debug)]
pub(super) enum ModelVerdict {
    /// Refused; nothing changes.
    Refused(Refusal),
    /// Granted for these digests.
    Granted(Op, Vec<Digest>),
}

/// Returns the verdict on a datagram, with one of the [`FILES`]; none if it is ignored.
pub(super) fn model_verdict(
    datagram: &[u8],
    message: &ModelMessage,
    peer: SocketAddr,
    now: Timestamp,
    rights: usize,
) -> Option<ModelVerdict> {
    let is_reply = message.first("code").or(message.first("diag")).is_some();
    if datagram.is_empty() || peer.port() == 0 || is_reply {
        return None;
    }
    Some(match granted(message, now, rights) {
        Ok((op, digests)) => ModelVerdict::Granted(op, digests),
        Err(refusal) => ModelVerdict::Refused(refusal),
    })
}

fn granted(message: &ModelMessage, now: Timestamp, rights: usize) -> Result<(Op, Vec<Digest>), Refusal> {
    let user = match message.first("user").unwrap_or_default() {
        b"" | b"anonymous" => "anonymous",
        user => {
            let known = ACCOUNTS.iter().find(|(name, _)| name.as_bytes() == user);
            let (name, key) = known.ok_or(Refusal::UnknownUser)?;
            let time = message.first("time").and_then(model_integer).ok_or(Refusal::InvalidTime)?;
            // Times of signing saturate at the limits of microseconds in 64 bits.
            let signed = (i128::from(time) * 1_000_000).clamp(i64::MIN.into(), i64::MAX.into());
            if (i128::from(now.micros()) - signed).abs() > 300_000_000 {
                return Err(Refusal::TimeOutOfRange);
            }
            if message.first("sig") != Some(&signature(name, key, &message.signed, time)) {
                return Err(Refusal::InvalidSignature);
            }
            name
        }
    };
    let version = message.first("pv").ok_or(Refusal::MissingVersion)?;
    model_version(version).map_err(|error| match error {
        VersionError::Malformed => Refusal::MalformedVersion,
        VersionError::Unsupported => Refusal::UnsupportedVersion,
    })?;
    let name = String::from_utf8_lossy(message.first("op").unwrap_or_default()).into_owned();
    let (file, order) = FILES[rights];
    if !model_grants(file.as_bytes(), order, user, &name) {
        return Err(Refusal::Forbidden);
    }
    let op = Op::ALL.into_iter().find(|op| op.name() == name).ok_or(Refusal::NotImplemented)?;
    let sent: Vec<&[u8]> = message.all("op-digest").collect();
    let used = match op {
        Op::Report | Op::Whitelist => sent.len(),
        Op::Check | Op::Info => sent.len().min(1),
        // Only the presence of a digest matters.
        Op::Ping | Op::Pong => return Ok((op, sent.iter().map(|_| Digest::from_bytes([0; 20])).collect())),
    };
    let digests = sent[..used].iter().map(|text| model_digest(text).ok_or(Refusal::InvalidDigest));
    Ok((op, digests.collect::<Result<_, _>>()?))
}

fn model_digest(text: &[u8]) -> Option<Digest> {
    if text.len() != 40 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let mut bytes = [0; 20];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest::from_bytes(bytes))
}

/// Returns the signature of a text by the rules of the protocol.
pub(super) fn signature(user: &str, key: &str, text: &[u8], time: i64) -> [u8; 40] {
    let hex =
        |text: &[u8]| -> String { Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
    let key = hex(format!("{user}:{}", key.to_lowercase()).as_bytes());
    let inner = [&Sha1::digest(text)[..], format!(":{time}:{key}").as_bytes()].concat();
    let mut signature = [0; 40];
    signature.copy_from_slice(hex(&inner).as_bytes());
    signature
}
