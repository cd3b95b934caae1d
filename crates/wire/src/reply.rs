//! Encoding of replies.
//!
//! Some clients parse replies with a regular expression. So the order of the headers (code, diagnosis, version, thread,
//! then those of the operation), the line ends and the empty line at the end are part of the protocol.

use crate::number::push_number;

/// Reason for an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The protocol version is missing.
    MissingVersion,
    /// The protocol version is not a number.
    MalformedVersion,
    /// A digest is not 40 hexadecimal digits.
    InvalidDigest,
    /// The account does not exist.
    UnknownUser,
    /// The time of signing is missing or not an integer.
    InvalidTime,
    /// The time of signing differs too much from the current time.
    TimeOutOfRange,
    /// The signature does not match the account.
    InvalidSignature,
    /// The access file does not grant the operation to the user.
    Forbidden,
    /// The database is unavailable or does not accept the change.
    Unavailable,
    /// The stored record cannot be decoded.
    DamagedRecord,
    /// The access file grants an operation that does not exist.
    NotImplemented,
    /// The server does not support the protocol version.
    UnsupportedVersion,
}

impl Refusal {
    /// The code of the reply.
    pub const fn code(self) -> u16 {
        match self {
            Self::MissingVersion | Self::MalformedVersion | Self::InvalidDigest => 400,
            Self::UnknownUser | Self::InvalidTime | Self::TimeOutOfRange | Self::InvalidSignature => 401,
            Self::Forbidden => 403,
            Self::Unavailable | Self::DamagedRecord => 500,
            Self::NotImplemented => 501,
            Self::UnsupportedVersion => 505,
        }
    }

    /// The diagnosis of the reply. These texts are part of the protocol, and clients print them.
    pub const fn diagnosis(self) -> &'static str {
        match self {
            Self::MissingVersion => "Bad request: Protocol Version not specified in request",
            Self::MalformedVersion => "Bad request: Invalid Protocol Version",
            Self::InvalidDigest => "Bad request: Invalid digest",
            Self::UnknownUser => "Unauthorized: Signature Error: Unknown user.",
            Self::InvalidTime => "Unauthorized: Signature Error: Invalid timestamp.",
            Self::TimeOutOfRange => "Unauthorized: Signature Error: Timestamp not within allowed range.",
            Self::InvalidSignature => "Unauthorized: Signature Error: Invalid signature.",
            Self::Forbidden => "Forbidden: User is not authorized to request the operation.",
            Self::Unavailable => "Internal Server Error: Database temporarily unavailable.",
            Self::DamagedRecord => "Internal Server Error: Damaged record.",
            Self::NotImplemented => "Not implemented: Requested operation is not implemented.",
            // The trailing blank is that of the established server.
            Self::UnsupportedVersion => "Version Not Supported: ",
        }
    }
}

/// The counts of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Reports as spam. A database may contain a negative number.
    pub reports: i64,
    /// Whitelistings as not spam. A database may contain a negative number.
    pub whitelists: i64,
}

/// The times of a record, in seconds since the Unix epoch; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordTimes {
    /// The first report.
    pub entered: i64,
    /// The last report.
    pub updated: i64,
    /// The first whitelisting.
    pub wl_entered: i64,
    /// The last whitelisting.
    pub wl_updated: i64,
}

/// The result of a successful operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Success without data.
    Done,
    /// Both counts, for a check.
    Counts(RecordCounts),
    /// All four times and both counts, for an info.
    Details(RecordTimes, RecordCounts),
}

impl Answer {
    /// The answer to a pong: counts that no message has.
    pub const PONG: Self = Self::Counts(RecordCounts { reports: i64::MAX, whitelists: 0 });
}

/// Appends the reply to a request with the thread `thread`.
pub fn encode(out: &mut Vec<u8>, thread: &[u8], outcome: Result<Answer, Refusal>) {
    match outcome {
        Ok(_) => out.extend_from_slice(b"Code: 200\nDiag: OK\nPV: 2.1\nThread: "),
        Err(refusal) => {
            out.extend_from_slice(b"Code: ");
            push_number(out, i64::from(refusal.code()));
            out.extend_from_slice(b"\nDiag: ");
            out.extend_from_slice(refusal.diagnosis().as_bytes());
            out.extend_from_slice(b"\nPV: 2.1\nThread: ");
        }
    }
    push_thread(out, thread);
    out.push(b'\n');
    match outcome {
        Ok(Answer::Done) | Err(_) => {}
        Ok(Answer::Counts(counts)) => push_counts(out, counts),
        Ok(Answer::Details(times, counts)) => {
            push_header(out, b"Entered: ", times.entered);
            push_header(out, b"Updated: ", times.updated);
            push_header(out, b"WL-Entered: ", times.wl_entered);
            push_header(out, b"WL-Updated: ", times.wl_updated);
            push_counts(out, counts);
        }
    }
    out.push(b'\n');
}

/// Appends the thread as received, with each line end replaced by a blank: a folded thread could otherwise add headers
/// or end them.
fn push_thread(out: &mut Vec<u8>, thread: &[u8]) {
    if !thread.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(thread);
        return;
    }
    let mut at = 0;
    while let Some(byte) = thread.get(at) {
        match byte {
            b'\r' | b'\n' => out.push(b' '),
            byte => out.push(*byte),
        }
        at += if thread[at..].starts_with(b"\r\n") { 2 } else { 1 };
    }
}

fn push_counts(out: &mut Vec<u8>, counts: RecordCounts) {
    push_header(out, b"Count: ", counts.reports);
    push_header(out, b"WL-Count: ", counts.whitelists);
}

fn push_header(out: &mut Vec<u8>, name: &[u8], value: i64) {
    out.extend_from_slice(name);
    push_number(out, value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(thread: &[u8], outcome: Result<Answer, Refusal>) -> String {
        let mut out = Vec::new();
        encode(&mut out, thread, outcome);
        out.escape_ascii().to_string().replace("\\n", "\n")
    }

    #[test]
    fn success_has_code_diagnosis_version_and_thread() {
        assert_eq!(text(b"3000", Ok(Answer::Done)), "Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n\n");
        assert_eq!(text(b"", Ok(Answer::Done)), "Code: 200\nDiag: OK\nPV: 2.1\nThread: \n\n");
    }

    #[test]
    fn counts_and_details_follow_in_the_established_order() {
        let counts = RecordCounts { reports: 3, whitelists: -1 };
        let times = RecordTimes { entered: 5, updated: 7, ..RecordTimes::default() };
        assert_eq!(
            text(b"1", Ok(Answer::Counts(counts))),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\nCount: 3\nWL-Count: -1\n\n"
        );
        assert_eq!(
            text(b"1", Ok(Answer::Details(times, counts))),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\nEntered: 5\nUpdated: 7\nWL-Entered: 0\nWL-Updated: 0\nCount: 3\nWL-Count: -1\n\n"
        );
        assert_eq!(
            text(b"1", Ok(Answer::PONG)),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\nCount: 9223372036854775807\nWL-Count: 0\n\n"
        );
    }

    #[test]
    fn refusal_has_no_counts() {
        assert_eq!(
            text(b"1", Err(Refusal::UnsupportedVersion)),
            "Code: 505\nDiag: Version Not Supported: \nPV: 2.1\nThread: 1\n\n"
        );
    }

    #[test]
    fn thread_cannot_add_header_lines() {
        assert_eq!(
            text(b"30\r\n 00\n\t1\r x", Ok(Answer::Done)),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: 30  00 \\t1  x\n\n"
        );
        assert_eq!(
            text(b"\xe9\x0b1 ", Ok(Answer::Done)),
            "Code: 200\nDiag: OK\nPV: 2.1\nThread: \\xe9\\x0b1 \n\n"
        );
    }
}
