//! Encoding requests like the Python client. All requests of an operation have the same length, so that one system call
//! can send many of them as segments of one datagram.

use pyzor_wire::digest::{Digest, HEX_LEN};
use pyzor_wire::op::Op;
use pyzor_wire::signature::KeyHash;

use super::choice::op_index;

/// The number of digits of `Thread`. Python clients send numbers below 65536; these are larger and never used twice, so
/// that late replies can be recognized.
const THREAD_DIGITS: usize = 15;
/// The smallest `Thread`.
pub(super) const FIRST_THREAD: u64 = 10u64.pow(THREAD_DIGITS as u32 - 1);
/// The number of different `Thread`s.
pub(super) const THREADS: u64 = 9 * FIRST_THREAD;

const TIME_DIGITS: usize = 10;

/// Encodes requests by filling the gaps of templates.
#[derive(Debug)]
pub(super) struct Encoder {
    templates: [Template; Op::ALL.len()],
    key: Option<KeyHash>,
    time: i64,
    time_text: [u8; TIME_DIGITS],
}

/// A request with gaps for digest, thread, time and signature, and their positions.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    digest: Option<usize>,
    thread: usize,
    time: usize,
    signature: usize,
}

impl Encoder {
    /// Creates an encoder for requests of this account (user and key), or for anonymous requests.
    pub(super) fn new(account: Option<(&str, &str)>) -> Self {
        let (user, key) = account.unwrap_or(("anonymous", ""));
        let hash = KeyHash::new(user, key);
        Self {
            templates: Op::ALL.map(|op| Template::new(op, user, &hash)),
            // Servers ignore the signature of an anonymous request, so it is not computed again.
            key: account.map(|_| hash),
            time: 0,
            time_text: [b'0'; TIME_DIGITS],
        }
    }

    /// Sets the time of the following requests, in seconds since the epoch.
    pub(super) fn set_time(&mut self, seconds: i64) {
        if seconds != self.time {
            self.time = seconds;
            digits(&mut self.time_text, seconds.unsigned_abs());
        }
    }

    /// Appends a request to `out`.
    pub(super) fn encode(&self, op: Op, digest: &Digest, thread: u64, out: &mut Vec<u8>) {
        let template = &self.templates[op_index(op)];
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let request = &mut out[start..];
        if let Some(at) = template.digest {
            request[at..at + HEX_LEN].copy_from_slice(&digest.to_hex());
        }
        digits(&mut request[template.thread..template.thread + THREAD_DIGITS], thread);
        let time_end = template.time + TIME_DIGITS;
        request[template.time..time_end].copy_from_slice(&self.time_text);
        if let Some(key) = &self.key {
            let signature = key.sign(&request[..time_end], self.time);
            request[template.signature..template.signature + HEX_LEN].copy_from_slice(&signature);
        }
    }

    /// The length of each request for this operation, in bytes.
    pub(super) fn length(&self, op: Op) -> usize {
        self.templates[op_index(op)].bytes.len()
    }
}

impl Template {
    fn new(op: Op, user: &str, key: &KeyHash) -> Self {
        let mut bytes = format!("Op: {op}\n").into_bytes();
        let mut gap = |before: &str, length: usize, after: &str| {
            bytes.extend_from_slice(before.as_bytes());
            let at = bytes.len();
            bytes.resize(at + length, b'0');
            bytes.extend_from_slice(after.as_bytes());
            at
        };
        let digest = (op != Op::Ping).then(|| gap("Op-Digest: ", HEX_LEN, "\n"));
        let thread = gap("Thread: ", THREAD_DIGITS, "\nPV: 2.1\n");
        let time = gap(&format!("User: {user}\nTime: "), TIME_DIGITS, "\n");
        let signature = gap("Sig: ", HEX_LEN, "\n\n");
        let sample = key.sign(&bytes[..time + TIME_DIGITS], 0);
        bytes[signature..signature + HEX_LEN].copy_from_slice(&sample);
        Self { bytes, digest, thread, time, signature }
    }
}

/// Writes a decimal number with leading zeros into the field.
fn digits(field: &mut [u8], mut number: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789ABCDEF01234567";

    fn encoded(encoder: &Encoder, op: Op, thread: u64) -> String {
        let mut out = b"before".to_vec();
        encoder.encode(op, &Digest::from_bytes([0xa5; 20]), thread, &mut out);
        assert_eq!(out.len() - 6, encoder.length(op));
        String::from_utf8(out.split_off(6)).unwrap()
    }

    #[test]
    fn anonymous_request_has_all_headers_of_the_python_client() {
        let mut encoder = Encoder::new(None);
        encoder.set_time(1_795_343_270);
        let request = encoded(&encoder, Op::Check, 123_456_789_012_345);
        let (unsigned, signature) = request.split_once("Sig: ").unwrap();
        let digest = "a5".repeat(20);
        assert_eq!(
            unsigned,
            format!(
                "Op: check\nOp-Digest: {digest}\nThread: 123456789012345\nPV: 2.1\nUser: anonymous\nTime: 1795343270\n"
            )
        );
        assert_eq!(signature.len(), 42);
        assert!(encoded(&encoder, Op::Ping, 5).starts_with("Op: ping\nThread: 000000000000005\nPV: 2.1\n"));
    }

    #[test]
    fn signatures_are_valid_and_different() {
        let mut encoder = Encoder::new(Some(("alice", KEY)));
        encoder.set_time(1_795_343_270);
        let mut seen = std::collections::BTreeSet::new();
        for op in Op::ALL {
            for thread in [FIRST_THREAD, FIRST_THREAD + 1] {
                let request = encoded(&encoder, op, thread);
                let (text, signature) = request.split_once("\nSig: ").unwrap();
                let expected = KeyHash::new("alice", KEY).sign(text.as_bytes(), 1_795_343_270);
                assert_eq!(signature.as_bytes(), [&expected[..], b"\n\n"].concat());
                assert!(seen.insert(signature.to_owned()));
            }
        }
        encoder.set_time(1_795_343_271);
        assert!(seen.insert(encoded(&encoder, Op::Check, FIRST_THREAD)));
    }
}
