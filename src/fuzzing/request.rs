//! Fuzz target for parsing requests, compared with a slow model.

use crate::fuzz_models::{ModelMessage, model_integer, model_version};
use pyzor_wire::digest::Digest;
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::number::{check_version, integer};
use pyzor_wire::op::Op;
use pyzor_wire::request::Request;

/// Parses any bytes with a used parser, and compares the result with the model.
pub(super) fn target(bytes: &[u8]) {
    let mut parser = HeaderParser::default();
    // The content of the buffers after another datagram must have no effect.
    parser.parse(b"Op: x\n\nUser: left over\n folded\n\n\nbody");
    let model = ModelMessage::parse(bytes);
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
    assert_eq!(request.forward_id(), model.first("forward-id"));
    assert_eq!(request.is_reply, model.first("code").or(model.first("diag")).is_some());
    assert_eq!(request.digests().collect::<Vec<_>>(), model.all("op-digest").collect::<Vec<_>>());
    let mut names = model.fields.iter().map(|(name, _)| name.to_ascii_lowercase());
    let first = names.find(|name| name == b"op-spec" || name == b"op-digest");
    assert_eq!(request.has_form_of_forwarder(), first.is_some_and(|name| name == b"op-spec"));

    let mut signed = b"left over".to_vec();
    request.message().write_signed_text(&mut signed);
    // Without a user the signed text is never used, and may differ from the model.
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
