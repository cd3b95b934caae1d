//! The header fields of a request.

use super::forward_id::FORWARD_ID;
use super::headers::ParsedMessage;
use super::local_only::{LOCAL_ONLY, YES};

/// The user without an account, who is never authenticated.
pub const ANONYMOUS: &str = "anonymous";

/// The known header fields of a request. The first of repeated fields counts.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    message: ParsedMessage<'a>,
    /// The name of the operation; empty if missing.
    pub op: &'a [u8],
    /// The text that the reply echoes, so that clients can match replies to requests.
    pub thread: &'a [u8],
    /// The protocol version as text.
    pub version: Option<&'a [u8]>,
    /// The account; empty if missing, which means anonymous.
    pub user: &'a [u8],
    /// The time of signing, as text.
    pub time: Option<&'a [u8]>,
    /// The signature, as text.
    pub signature: Option<&'a [u8]>,
    /// Whether the datagram is itself a reply: it has a code or a diagnosis.
    pub is_reply: bool,
    /// Whether a check must be answered from the database alone: it has the header `Local-Only: yes`.
    pub is_local_only: bool,
}

impl<'a> Request<'a> {
    /// Returns the known fields of a message.
    pub fn new(message: ParsedMessage<'a>) -> Self {
        let (mut op, mut thread, mut version, mut user, mut time, mut signature) =
            (None, None, None, None, None, None);
        let (mut local_only, mut is_reply) = (None, false);
        for field in message.fields() {
            let known = match field.name.len() {
                2 if field.name.eq_ignore_ascii_case(b"Op") => &mut op,
                2 if field.name.eq_ignore_ascii_case(b"PV") => &mut version,
                3 if field.name.eq_ignore_ascii_case(b"Sig") => &mut signature,
                4 if field.name.eq_ignore_ascii_case(b"User") => &mut user,
                4 if field.name.eq_ignore_ascii_case(b"Time") => &mut time,
                6 if field.name.eq_ignore_ascii_case(b"Thread") => &mut thread,
                10 if field.name.eq_ignore_ascii_case(LOCAL_ONLY.as_bytes()) => &mut local_only,
                4 if field.name.eq_ignore_ascii_case(b"Code") || field.name.eq_ignore_ascii_case(b"Diag") => {
                    is_reply = true;
                    continue;
                }
                _ => continue,
            };
            known.get_or_insert(field.value);
        }
        Self {
            message,
            op: op.unwrap_or_default(),
            thread: thread.unwrap_or_default(),
            version,
            user: user.unwrap_or_default(),
            time,
            signature,
            is_reply,
            is_local_only: local_only.is_some_and(|value: &[u8]| value.eq_ignore_ascii_case(YES.as_bytes())),
        }
    }

    /// Whether the request is by the anonymous user, who has no account and does not sign.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty() || self.user == ANONYMOUS.as_bytes()
    }

    /// The digests as received, in order.
    pub fn digests(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.message
            .fields()
            .filter(|field| field.name.eq_ignore_ascii_case(b"Op-Digest"))
            .map(|field| field.value)
    }

    /// The id of a request that another server has forwarded, as text. Looked for only when it is needed, because few
    /// requests have one.
    pub fn forward_id(&self) -> Option<&'a [u8]> {
        let is_id = |name: &[u8]| name.eq_ignore_ascii_case(FORWARD_ID.as_bytes());
        self.message.fields().find(|field| is_id(field.name)).map(|field| field.value)
    }

    /// Whether `Op-Spec` comes before the first digest, as in requests of the established server. Its client puts it
    /// behind the digest.
    pub fn has_form_of_forwarder(&self) -> bool {
        let mut names = self.message.fields().map(|field| field.name);
        let first = names.find(|name| {
            [&b"Op-Spec"[..], b"Op-Digest"].iter().any(|known| name.eq_ignore_ascii_case(known))
        });
        first.is_some_and(|name| name.eq_ignore_ascii_case(b"Op-Spec"))
    }

    /// The message, for its signed text.
    pub fn message(&self) -> &ParsedMessage<'a> {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::HeaderParser;
    use super::*;

    #[test]
    fn first_of_repeated_fields_counts_and_digests_are_collected() {
        let mut parser = HeaderParser::default();
        let request = Request::new(
            parser.parse(b"op: check\nOp: report\nOP-DIGEST: a\nPV: 2.1\nOp-Digest: b\npv: 3\nThread: 1\n"),
        );
        assert_eq!(request.op, b"check");
        assert_eq!(request.version, Some(&b"2.1"[..]));
        assert_eq!(request.thread, b"1");
        assert_eq!(request.user, b"");
        assert_eq!(request.digests().collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(!request.is_reply);
    }

    #[test]
    fn position_of_op_spec_tells_a_server_from_a_client() {
        let form =
            |datagram: &[u8]| Request::new(HeaderParser::default().parse(datagram)).has_form_of_forwarder();
        assert!(form(b"Op: report\nop-spec: 20,3,60,3\nOp-Digest: a\n"));
        assert!(!form(b"Op: report\nOp-Digest: a\nOp-Spec: 20,3,60,3\nOp-Digest: b\n"));
        assert!(!form(b"Op: report\nOp-Digest: a\n"));
        let mut parser = HeaderParser::default();
        let request = Request::new(parser.parse(b"forward-id: a-1-2\nForward-Id: b\n"));
        assert_eq!(request.forward_id(), Some(&b"a-1-2"[..]));
    }

    #[test]
    fn only_yes_makes_a_check_local() {
        let is_local = |datagram: &[u8]| Request::new(HeaderParser::default().parse(datagram)).is_local_only;
        assert!(is_local(b"Op: check\nlocal-only: YES\n"));
        for datagram in [&b"Op: check\n"[..], b"Local-Only: no\n", b"Local-Only:\n", b"Local-Onl: yes\n"] {
            assert!(!is_local(datagram), "{}", datagram.escape_ascii());
        }
        assert!(!is_local(b"Local-Only: no\nLocal-Only: yes\n"), "the first of repeated fields counts");
    }

    #[test]
    fn code_or_diagnosis_marks_a_reply() {
        let mut parser = HeaderParser::default();
        assert!(Request::new(parser.parse(b"code: 200\nOp: ping\n")).is_reply);
        assert!(Request::new(parser.parse(b"Op: ping\nDiag: OK\n")).is_reply);
    }
}
