//! Parsing of replies, for clients.

use crate::op::Op;
use crate::reply::RecordCounts;

/// The fields of a reply that clients need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedReply {
    /// `Thread`, which identifies the request.
    pub thread: u64,
    /// `Code`, or its substitute.
    pub code: Code,
    /// Whether `Count` is above 0.
    pub is_found: bool,
    /// `Count` and `WL-Count`, if both are present and numbers. Numbers out of range become the nearest in range.
    pub counts: Option<RecordCounts>,
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
            Code::Number(200) if requires_counts && self.counts.is_none() => Code::WithoutCount,
            code => code,
        }
    }

    /// Parses a reply. Returns none if `Thread` is missing or not a number.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        // Most replies start with this text. Comparing it is several times as fast as parsing the fields.
        const USUAL: &[u8] = b"Code: 200\nDiag: OK\nPV: 2.1\nThread: ";
        let mut reply = Self { thread: 0, code: Code::Number(0), is_found: false, counts: None };
        let (mut reports, mut whitelists) = (None, None);
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
                reports = integer(value);
                reply.is_found = reports.is_some_and(|count| count > 0);
            } else if name.eq_ignore_ascii_case(b"WL-Count") {
                whitelists = integer(value);
            }
        }
        reply.counts =
            reports.zip(whitelists).map(|(reports, whitelists)| RecordCounts { reports, whitelists });
        reply.thread = thread?;
        Some(reply)
    }
}

/// Parses an optional minus and digits. A number out of range becomes the nearest in range.
fn integer(text: &[u8]) -> Option<i64> {
    let (sign, digits) = text.strip_prefix(b"-").map_or((1, text), |digits| (-1, digits));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add =
        |number: i64, digit: &u8| number.saturating_mul(10).saturating_add(sign * i64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
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

    fn counts(reports: i64, whitelists: i64) -> RecordCounts {
        RecordCounts { reports, whitelists }
    }

    #[test]
    fn counts_out_of_range_become_the_nearest_in_range() {
        let of = |text: &str| parsed(&format!("Code: 200\nThread: 9\n{text}\n")).unwrap().counts;
        let (low, high) = (i64::MIN, i64::MAX);
        assert_eq!(
            of("Count: 9223372036854775807\nWL-Count: -9223372036854775808\n"),
            Some(counts(high, low))
        );
        assert_eq!(
            of("Count: 99999999999999999999\nWL-Count: -99999999999999999999\n"),
            Some(counts(high, low))
        );
        assert_eq!(of("Count: 007\nWL-Count: -0\n"), Some(counts(7, 0)));
        assert_eq!(of("Count: 7\nWL-Count: +1\n"), None);
    }

    #[test]
    fn replies_are_parsed_in_any_order_of_their_headers() {
        let found = Some(ReceivedReply {
            thread: 7000,
            code: Code::Number(200),
            is_found: true,
            counts: Some(counts(10, 0)),
        });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\nCount: 10\nWL-Count: 0\n\n"), found);
        assert_eq!(parsed("thread: 7000\r\nWL-Count: 0\r\ncount: 10\r\nCODE:200\r\n\r\n"), found);
        let missed =
            found.map(|reply| ReceivedReply { is_found: false, counts: Some(counts(0, 3)), ..reply });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\nCount: 0\nWL-Count: 3\n\n"), missed);
        let without = missed.map(|reply| ReceivedReply { counts: None, ..reply });
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000"), without);
        assert_eq!(parsed("Code: 200\nDiag: OK\nPV: 2.1\nThread: 7000\n\nCount: 10\n"), without);
    }

    #[test]
    fn failures_and_echoes_have_different_codes() {
        let with = |code| Some(ReceivedReply { thread: 9, code, is_found: false, counts: None });
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
