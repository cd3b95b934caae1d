//! Fuzz target for encoding and parsing replies.

use crate::fuzz_models::{FuzzInput, check_reply};
use pyzor_wire::reply::{Answer, RecordCounts, RecordTimes, Refusal, encode};
use pyzor_wire::reply_reader::ReceivedReply;

/// Checks that the reply to any outcome can be parsed, and that the parser accepts any bytes without a panic.
pub(super) fn target(bytes: &[u8]) {
    let _ = ReceivedReply::parse(bytes);
    let mut input = FuzzInput::new(bytes);
    let outcome = outcome(&mut input);
    let thread = input.rest();
    let mut out = b"kept".to_vec();
    encode(&mut out, thread, outcome);
    assert!(out.starts_with(b"kept"));
    check_reply(&out[4..], thread, outcome);
}

fn outcome(input: &mut FuzzInput<'_>) -> Result<Answer, Refusal> {
    const REFUSALS: [Refusal; 12] = [
        Refusal::MissingVersion,
        Refusal::MalformedVersion,
        Refusal::InvalidDigest,
        Refusal::UnknownUser,
        Refusal::InvalidTime,
        Refusal::TimeOutOfRange,
        Refusal::InvalidSignature,
        Refusal::Forbidden,
        Refusal::Unavailable,
        Refusal::DamagedRecord,
        Refusal::NotImplemented,
        Refusal::UnsupportedVersion,
    ];
    match input.byte() % 4 {
        0 => Err(input.pick(&REFUSALS)),
        1 => Ok(Answer::Done),
        2 => Ok(Answer::Counts(counts(input))),
        _ => Ok(Answer::Details(times(input), counts(input))),
    }
}

fn counts(input: &mut FuzzInput<'_>) -> RecordCounts {
    RecordCounts { reports: input.number(), whitelists: input.number() }
}

fn times(input: &mut FuzzInput<'_>) -> RecordTimes {
    RecordTimes {
        entered: input.number(),
        updated: input.number(),
        wl_entered: input.number(),
        wl_updated: input.number(),
    }
}
