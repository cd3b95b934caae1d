//! Writing requests, as the established server writes those that it forwards.

use std::io::Write as _;

use crate::digest::Digest;
use crate::forward_id::{FORWARD_ID, ForwardId};
use crate::local_only::{LOCAL_ONLY, YES};
use crate::op::Op;
use crate::request::ANONYMOUS;
use crate::signature::KeyHash;

/// The parts of a digest that established clients hash, as their requests state.
const OP_SPEC: &str = "20,3,60,3";

/// A user who signs requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    user: String,
    key: KeyHash,
}

impl Signer {
    /// Returns a signer for an account. The name is case-sensitive, the key is not.
    pub fn new(user: &str, key: &str) -> Self {
        Self { user: user.to_owned(), key: KeyHash::new(user, key) }
    }

    /// Returns the anonymous user, who signs with an empty key, as established clients do.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, "")
    }

    /// Whether this is the anonymous user.
    pub fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS
    }

    /// The name of the user.
    pub fn user(&self) -> &str {
        &self.user
    }
}

/// A header that established servers ignore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension<'a> {
    /// No such header.
    Nothing,
    /// The id of a forwarded request.
    ForwardId(&'a ForwardId),
    /// The database of the server alone must answer.
    LocalOnly,
}

/// Writes a request for these digests to `out`, which is emptied first. `thread` identifies the reply; `time` is the time
/// of signing, in seconds since the Unix epoch.
///
/// The order of the headers is that of the established server: `Op-Spec` comes before the digests, while the established
/// client puts it behind them.
pub fn write_request(
    out: &mut Vec<u8>,
    op: Op,
    digests: &[Digest],
    extension: Extension<'_>,
    thread: u16,
    signer: &Signer,
    time: i64,
) {
    out.clear();
    // Writing to a vector never fails.
    let _ = writeln!(out, "Op: {op}");
    if !digests.is_empty() {
        let _ = writeln!(out, "Op-Spec: {OP_SPEC}");
    }
    for digest in digests {
        // Not by the formatting of the standard library, which costs as much as sending the request.
        out.extend_from_slice(b"Op-Digest: ");
        out.extend_from_slice(&digest.to_hex());
        out.push(b'\n');
    }
    let _ = match extension {
        Extension::Nothing => Ok(()),
        Extension::ForwardId(id) => writeln!(out, "{FORWARD_ID}: {id}"),
        Extension::LocalOnly => writeln!(out, "{LOCAL_ONLY}: {YES}"),
    };
    let _ = write!(out, "Thread: {thread}\nPV: 2.1\nUser: {}\nTime: {time}", signer.user);
    let signature = signer.key.sign(out, time);
    out.extend_from_slice(b"\nSig: ");
    out.extend_from_slice(&signature);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward_id::ForwardOrigin;
    use crate::headers::HeaderParser;
    use crate::signature;

    /// Returns the text of a request without its signature, after checking that.
    fn checked(bytes: &[u8], key: &KeyHash, time: i64) -> String {
        let mut parser = HeaderParser::default();
        let message = parser.parse(bytes);
        let mut signed = Vec::new();
        message.write_signed_text(&mut signed);
        let received = message.fields().find(|field| field.name == b"Sig").unwrap().value;
        assert!(signature::equal(received, &key.sign(&signed, time)));
        String::from_utf8(bytes.to_vec()).unwrap().split("Sig: ").next().unwrap().to_owned()
    }

    #[test]
    fn request_has_the_form_of_the_established_server() {
        let digests = [Digest::from_bytes([1; 20]), Digest::from_bytes([0xab; 20])];
        let signer = Signer::new("bob", "0C");
        let mut out = b"old".to_vec();
        write_request(&mut out, Op::Report, &digests, Extension::Nothing, 38_062, &signer, 1_795_791_819);
        assert_eq!(
            checked(&out, &KeyHash::new("bob", "0c"), 1_795_791_819),
            format!(
                "Op: report\nOp-Spec: 20,3,60,3\nOp-Digest: {}\nOp-Digest: {}\nThread: 38062\nPV: 2.1\nUser: bob\nTime: \
                 1795791819\n",
                digests[0], digests[1]
            )
        );
        assert!(out.ends_with(b"\n\n"));
    }

    #[test]
    fn extensions_are_signed_and_a_ping_has_no_digest() {
        let id = ForwardId { origin: ForwardOrigin::from_number(0xabc), number: 5, hops: 1 };
        let mut out = Vec::new();
        let digest = Digest::from_bytes([0; 20]);
        write_request(
            &mut out,
            Op::Whitelist,
            &[digest],
            Extension::ForwardId(&id),
            1024,
            &Signer::anonymous(),
            7,
        );
        let text = checked(&out, &KeyHash::new("anonymous", ""), 7);
        assert!(
            text.contains(&format!("{digest}\nForward-Id: 0000000000000abc-5-1\nThread: 1024\n")),
            "{text}"
        );
        write_request(&mut out, Op::Check, &[digest], Extension::LocalOnly, 1024, &Signer::anonymous(), 7);
        let text = checked(&out, &KeyHash::new("anonymous", ""), 7);
        assert!(text.contains(&format!("{digest}\nLocal-Only: yes\nThread: 1024\n")), "{text}");
        write_request(&mut out, Op::Ping, &[], Extension::Nothing, 1024, &Signer::anonymous(), 7);
        let text = checked(&out, &KeyHash::new("anonymous", ""), 7);
        assert_eq!(text, "Op: ping\nThread: 1024\nPV: 2.1\nUser: anonymous\nTime: 7\n");
    }
}
