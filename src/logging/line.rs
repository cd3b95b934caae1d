//! The stamp of a log line, and escaping of its text.

use jiff::tz::TimeZone;

use crate::record::Timestamp;

/// Formats the stamp `2026-11-22 10:26:46,772 (12483) LEVEL `: local time with milliseconds, process id. The last
/// second is cached, because most lines fall into the same second as their predecessor.
#[derive(Debug)]
pub(super) struct LineStamp {
    zone: TimeZone,
    second: Option<i64>,
    date: String,
    process: u32,
}

impl LineStamp {
    /// Creates a stamp for this time zone and process id.
    pub(super) fn new(zone: TimeZone, process: u32) -> Self {
        Self { zone, second: None, date: String::new(), process }
    }

    /// Creates a stamp for the system's time zone and this process.
    pub(super) fn here() -> Self {
        Self::new(TimeZone::system(), std::process::id())
    }

    pub(super) fn process(&self) -> u32 {
        self.process
    }

    /// Appends the stamp of a line.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, now: Timestamp, level: &str) {
        if self.second != Some(now.seconds()) {
            let moment = jiff::Timestamp::from_second(now.seconds()).unwrap_or_default();
            self.date = self.zone.to_datetime(moment).strftime("%Y-%m-%d %H:%M:%S").to_string();
            self.second = Some(now.seconds());
        }
        let millis = now.micros().rem_euclid(1_000_000) / 1000;
        out.extend_from_slice(self.date.as_bytes());
        out.push(b',');
        for divisor in [100, 10, 1] {
            out.push(b'0' + (millis / divisor % 10) as u8);
        }
        out.extend_from_slice(b" (");
        pyzor_wire::number::push_number(out, i64::from(self.process));
        out.extend_from_slice(b") ");
        out.extend_from_slice(level.as_bytes());
        out.push(b' ');
    }
}

/// Appends a text with control characters escaped, so that it can neither begin a new line nor control a terminal.
pub(super) fn push_printable(out: &mut Vec<u8>, text: &str) {
    let mut buffer = [0; 4];
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            out.extend(character.escape_default().map(|escaped| escaped as u8));
        } else {
            out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
    }
}

/// Appends bytes and escapes everything except printable ASCII. With a `quote`, the quote and backslashes are escaped
/// as well.
pub(super) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8], quote: Option<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let is_plain = |byte: &u8| {
        matches!(byte, b' '..=b'~') && Some(*byte) != quote && (*byte != b'\\' || quote.is_none())
    };
    if bytes.iter().all(is_plain) {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\\' if quote.is_some() => out.extend_from_slice(b"\\\\"),
            byte if Some(*byte) == quote => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            byte => {
                out.extend_from_slice(&[
                    b'\\',
                    b'x',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
            }
        }
    }
}
