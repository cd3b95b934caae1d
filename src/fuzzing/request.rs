//! A datagram taken apart: the same as by the slow model, and numbers, versions, digests and names likewise.

use super::model::Message;
use pyzor_wire::digest::Digest;
use pyzor_wire::headers::Parser;
use pyzor_wire::number::{VersionError, check_version, integer};
use pyzor_wire::op::Op;
use pyzor_wire::request::Request;

/// Any bytes are taken apart as the model does, by a parser that has seen others before.
pub(super) fn target(bytes: &[u8]) {
    let mut parser = Parser::default();
    // What another datagram left in the buffers must not matter.
    parser.parse(b"Op: x\n\nUser: left over\n folded\n\n\nbody");
    let model = Message::parse(bytes);
    let message = parser.parse(bytes);
    let fields: Vec<_> = message.fields().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
    assert_eq!(fields, model.fields);

    let request = Request::new(message);
    assert_eq!(request.op, model.first("op").unwrap_or_default());
    assert_eq!(request.user, model.first("user").unwrap_or_default());
    assert_eq!(request.thread, model.first("thread").unwrap_or_default());
    assert_eq!(request.version, model.first("pv"));
    assert_eq!(request.time, model.first("time"));
    assert_eq!(request.signature, model.first("sig"));
    assert_eq!(request.is_reply, model.first("code").or(model.first("diag")).is_some());
    assert_eq!(request.digests().collect::<Vec<_>>(), model.all("op-digest").collect::<Vec<_>>());

    let mut signed = b"left over".to_vec();
    request.message().write_signed_text(&mut signed);
    // Without a field there is no user who could sign.
    if request.user.is_empty() {
        assert!(signed.len() <= bytes.len() + 3 * model.fields.len() + 2);
    } else {
        assert_eq!(signed.escape_ascii().to_string(), model.signed.escape_ascii().to_string());
    }
    check_values(bytes);
    for (name, value) in &model.fields {
        check_values(name);
        check_values(value);
    }
}

fn check_values(text: &[u8]) {
    assert_eq!(integer(text), model_integer(text), "{}", text.escape_ascii());
    assert_eq!(check_version(text), model_version(text), "{}", text.escape_ascii());
    let op = Op::from_name(text);
    assert_eq!(op.map(|op| op.name().as_bytes()), op.map(|_| text));
    match Digest::from_hex(text) {
        Some(digest) => {
            assert_eq!(digest.to_hex().as_slice(), text.to_ascii_lowercase());
            assert_eq!(digest.to_string().into_bytes(), digest.to_hex());
            assert_eq!(Digest::from_hex(&digest.to_hex()), Some(digest));
        }
        None => assert!(text.len() != 40 || !text.iter().all(u8::is_ascii_hexdigit)),
    }
}

/// Text without its blanks, if it is ASCII.
fn plain(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    Some(text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']))
}

/// Whether every underscore has a digit on both sides.
fn underscores_fit(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    (0..bytes.len()).all(|at| bytes[at] != b'_' || is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
}

/// [`integer`] by the longer way.
pub(crate) fn model_integer(text: &[u8]) -> Option<i64> {
    let text = plain(text).filter(|text| underscores_fit(text))?.replace('_', "");
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    // What does not fit into 128 bits fits into 64 even less.
    Some(match text.parse::<i128>() {
        Ok(number) => number.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        Err(_) => limit,
    })
}

/// [`check_version`] by the longer way.
pub(super) fn model_version(text: &[u8]) -> Result<(), VersionError> {
    // Rust's own reader takes what Python's does, but for underscores, which it does not know.
    let text = plain(text).filter(|text| underscores_fit(text)).ok_or(VersionError::Malformed)?;
    let number: f64 = text.replace('_', "").parse().map_err(|_| VersionError::Malformed)?;
    match number {
        number if number.is_nan() => Err(VersionError::Malformed),
        number if (2.0..3.0).contains(&number) => Ok(()),
        _ => Err(VersionError::Unsupported),
    }
}
