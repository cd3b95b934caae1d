//! Parsing of replies, for clients.

use crate::op::Op;

/// The fields of a reply that clients need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedReply {
    /// `Thread`, which identifies the request.
    pub thread: u64,
    /// `Code`, or its substitute.
    pub code: Code,
    /// Whether `Count` is above 0.
    pub is_found: bool,
    /// Whether `Count` and `WL-Count` are present and numbers.
    pub has_counts: bool,
}

/// The code of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The reply is the request itself, sent back by an echo service.
    Echo,
    /// `Code`; 0 if it is missing or not a number.
    Number(u16),
    /// `Code` is 200, but a count that the operation requires is missing.
    WithoutCount,
}

impl Code {
    /// Whether the request succeeded.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Echo | Self::Number(200))
    }
}

impl ReceivedReply {
    /// The code as an answer to `op`: [`Code::WithoutCount`] if it is 200 but required counts are missing.
    pub fn code_for(self, op: Op) -> Code {
        let requires_counts = matches!(op, Op::Check | Op::Info | Op::Pong);
        match self.code {
            Code::Number(200) if requires_counts && !self.has_counts => Code::WithoutCount,
            code => code,
        }
    }

    /// Parses a reply. Returns none if `Thread` is missing or not a number.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        // Most replies start with this text. Comparing it is several times as fast as parsing the fields.
        const USUAL: &[u8] = b"Code: 200\nDiag: OK\nPV: 2.1\nThread: ";
        let mut reply = Self { thread: 0, code: Code::Number(0), is_found: false, has_counts: false };
        let (mut has_count, mut has_wl_count) = (false, false);
        if datagram.starts_with(b"Op: ") {
            reply.code = Code::Echo;
        }
        let mut thread = None;
        let mut rest = datagram;
        if let Some(behind) = datagram.strip_prefix(USUAL) {
            reply.code = Code::Number(200);
            let end = behind.iter().position(|byte| *byte == b'\n').unwrap_or(behind.len());
            thread = number(&behind[..end]);
            rest = behind.get(end + 1..).unwrap_or_default();
        }
        while !rest.is_empty() && !matches!(rest[0], b'\n' | b'\r') {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (line, behind) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            rest = behind;
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"Thread") {
                thread = thread.or_else(|| number(value));
            } else if name.eq_ignore_ascii_case(b"Code") {
                reply.code = Code::Number(number(value).and_then(|code| code.try_into().ok()).unwrap_or(0));
            } else if name.eq_ignore_ascii_case(b"Count") {
                has_count = is_integer(value);
                reply.is_found = has_count && value[0] != b'-' && value.iter().any(|digit| *digit != b'0');
            } else if name.eq_ignore_ascii_case(b"WL-Count") {
                has_wl_count = is_integer(value);
            }
        }
        reply.has_counts = has_count && has_wl_count;
        reply.thread = thread?;
        Some(reply)
    }
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<ReceivedReply> {
        ReceivedReply::parse(text.as_bytes())
    }

    #[test]
    fn replies_are_parsed_in_any_order_of_their_headers() {
        let found =
            Some(ReceivedReply { thread: 7000, code: Code::Number(200), is_found: true, has_counts: true });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\nCount: 10\nWL-Count: 0\n\n"), found);
        assert_eq!(parsed("thread: 7000\r\nWL-Count: 0\r\ncount: 10\r\nCODE:200\r\n\r\n"), found);
        let missed = found.map(|reply| ReceivedReply { is_found: false, ..reply });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\nCount: 0\nWL-Count: 3\n\n"), missed);
        let without = missed.map(|reply| ReceivedReply { has_counts: false, ..reply });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000"), without);
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\n\nCount: 10\n"), without);
    }

    #[test]
    fn failures_and_echoes_have_different_codes() {
        let with = |code| Some(ReceivedReply { thread: 9, code, is_found: false, has_counts: false });
        assert_eq!(parsed("Code: 403\nDiag: no: never\nPV: 2.1\nThread: 9\n\n"), with(Code::Number(403)));
        assert_eq!(parsed("Diag: what\nThread: 9\n\n"), with(Code::Number(0)));
        assert_eq!(parsed("Code: 99999\nThread: 9\n\n"), with(Code::Number(0)));
        assert_eq!(parsed("Op: check\nOp-Digest: 1\nThread: 9\nPV: 2.1\n\n"), with(Code::Echo));
        assert!(Code::Echo.is_success() && Code::Number(200).is_success() && !Code::Number(403).is_success());
    }

    #[test]
    fn success_without_the_required_counts_is_a_failure() {
        for (counts, is_complete) in [
            ("Count: 0\nWL-Count: 3\n", true),
            ("WL-Count: 0\nCount: -1\n", true),
            ("Count: 1\n", false),
            ("WL-Count: 1\n", false),
            ("Count: \nWL-Count: 0\n", false),
            ("Count: x\nWL-Count: 0\n", false),
            ("Count: 1\nWL-Count: -\n", false),
        ] {
            let reply = parsed(&format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: 9\n{counts}\n")).unwrap();
            for op in Op::ALL {
                let needs_none = matches!(op, Op::Ping | Op::Report | Op::Whitelist);
                let is_success = reply.code_for(op).is_success();
                assert_eq!(is_success, is_complete || needs_none, "{op} {counts:?}");
            }
        }
        let refused = parsed("Code: 403\nThread: 9\n\n").unwrap();
        assert_eq!(refused.code_for(Op::Check), Code::Number(403));
        assert!(parsed("Op: check\nThread: 9\n\n").unwrap().code_for(Op::Check).is_success());
    }

    #[test]
    fn text_without_a_thread_is_not_a_reply() {
        for text in
            ["", "\n", "Code: 200\n\n", "Thread: \n\n", "Thread: 1a\n", "Thread: 99999999999999999999999\n"]
        {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
