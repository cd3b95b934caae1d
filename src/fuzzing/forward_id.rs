//! Fuzz target for the ids of forwarded requests, compared with a slow model.

use crate::fuzz_models::FuzzInput;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin, MAX_HOPS};
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::op::Op;
use pyzor_wire::request::Request;
use pyzor_wire::request_writer::{Extension, Signer, write_request};

/// Parses any bytes, and the id of a written request, unchanged and with one byte changed.
pub(super) fn target(bytes: &[u8]) {
    check(bytes);
    let mut input = FuzzInput::new(bytes);
    let id = ForwardId {
        origin: ForwardOrigin::from_number(input.number() as u64),
        number: input.number() as u64,
        hops: input.byte().max(1),
    };
    let text = id.to_string();
    assert_eq!(ForwardId::parse(text.as_bytes()), Some(id));
    assert_eq!(check(text.to_ascii_uppercase().as_bytes()), Some(id));
    let mut changed = text.into_bytes();
    let at = usize::from(input.byte()) % changed.len();
    changed[at] = input.byte();
    check(&changed);
    check_hops(id);
    check_request(id, &mut input);
}

/// Compares the parser with the model, and returns the id.
fn check(text: &[u8]) -> Option<ForwardId> {
    let id = ForwardId::parse(text);
    let parts = id.map(|id| (id.origin.to_string(), id.number, id.hops));
    assert_eq!(parts, model(text), "{}", text.escape_ascii());
    if let Some(id) = id {
        assert_eq!(id.to_string().as_bytes(), text.to_ascii_lowercase());
    }
    id
}

/// Returns the origin, the number and the hops of an id.
fn model(text: &[u8]) -> Option<(String, u64, u8)> {
    let text = String::from_utf8(text.to_vec()).ok()?;
    let [origin, number, hops] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
    let is_origin = origin.chars().count() == 16 && origin.chars().all(|c| c.is_ascii_hexdigit());
    // A number that is written as it was read has no sign and no leading zeros.
    let number = number.parse().ok().filter(|value: &u64| value.to_string() == number)?;
    let hops = hops.parse().ok().filter(|value: &u8| *value > 0 && value.to_string() == hops)?;
    is_origin.then(|| (origin.to_lowercase(), number, hops))
}

/// Follows an id until it is not passed on any more.
fn check_hops(id: ForwardId) {
    let mut last = id;
    while let Some(next) = last.next_hop() {
        assert_eq!((next.origin, next.number, next.hops), (id.origin, id.number, last.hops + 1));
        last = next;
    }
    assert_eq!(last.hops, id.hops.max(MAX_HOPS));
}

/// Reads the id of a written request, whose key must not depend on the hops alone.
fn check_request(id: ForwardId, input: &mut FuzzInput<'_>) {
    let digests: Vec<Digest> =
        (0..input.byte() % 4).map(|_| Digest::from_bytes([input.byte(); 20])).collect();
    let op = input.pick(&[Op::Report, Op::Whitelist]);
    let mut written = Vec::new();
    write_request(
        &mut written,
        op,
        &digests,
        Extension::ForwardId(&id),
        1024,
        &Signer::anonymous(),
        input.number(),
    );
    let mut parser = HeaderParser::default();
    let request = Request::new(parser.parse(&written));
    assert_eq!(request.forward_id().and_then(ForwardId::parse), Some(id));
    assert_eq!(request.has_form_of_forwarder(), !digests.is_empty());
    let read: Option<Vec<Digest>> = request.digests().map(Digest::from_hex).collect();
    assert_eq!(read.as_ref(), Some(&digests));
    let key = id.key(op, &digests);
    assert_eq!(ForwardId { hops: id.hops ^ 1, ..id }.key(op, &digests), key);
    assert_ne!(ForwardId { number: id.number ^ 1, ..id }.key(op, &digests), key);
    assert_ne!(id.key(op, &[&digests[..], &[Digest::from_bytes([0; 20])]].concat()), key);
}
