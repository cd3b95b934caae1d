//! Parsing of datagrams into header fields and a body.

use std::ops::Range;

use memchr::{memchr_iter, memchr2};

/// Parses datagrams into header fields. Keeps its buffers between datagrams.
#[derive(Debug, Default)]
pub struct HeaderParser {
    repaired: Vec<u8>,
    fields: Vec<FieldSpan>,
}

/// A datagram split into header fields and a body.
#[derive(Clone, Copy, Debug)]
pub struct ParsedMessage<'a> {
    text: &'a [u8],
    fields: &'a [FieldSpan],
    envelope: Option<(usize, usize)>,
    body: usize,
}

/// One header field, as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// The name, its case unchanged.
    pub name: &'a [u8],
    /// The value without leading blanks and the final line end. A folded value keeps its inner line ends and blanks;
    /// trailing blanks are part of the value.
    pub value: &'a [u8],
}

#[derive(Clone, Debug)]
struct FieldSpan {
    name: Range<usize>,
    value: Range<usize>,
}

impl HeaderParser {
    /// Parses a datagram. Never fails: the first line that is not a header field starts the body.
    pub fn parse<'a>(&'a mut self, datagram: &'a [u8]) -> ParsedMessage<'a> {
        let text = repair(datagram, &mut self.repaired);
        let mut rest = LineScanner { text, at: 0 };
        self.fields.clear();
        let mut foldable = false;
        let mut envelope = None;
        let mut body = text.len();
        let mut first = true;
        while let Some(line) = rest.next() {
            let bytes = &text[line.start..line.end];
            let at_first = std::mem::take(&mut first);
            let was_envelope = envelope.take();
            match bytes.first() {
                Some(b' ' | b'\t') => match self.fields.last_mut() {
                    Some(field) if foldable => field.value.end = line.end,
                    // No field to continue: the line is ignored.
                    _ => {}
                },
                _ if bytes.starts_with(b"From ") => {
                    // The envelope line of a mailbox is skipped, but as the last line of the headers it belongs
                    // to the body.
                    foldable = false;
                    envelope = (!at_first).then_some((line.start, line.end));
                }
                _ => match name_length(bytes) {
                    Some(0) => foldable = false,
                    Some(length) => {
                        let value = line.start + length + 1;
                        let blanks = text[value..line.end]
                            .iter()
                            .take_while(|byte| matches!(byte, b' ' | b'\t'))
                            .count();
                        self.fields.push(FieldSpan {
                            name: line.start..line.start + length,
                            value: value + blanks..line.end,
                        });
                        foldable = true;
                    }
                    None => {
                        body = if bytes.is_empty() { line.next } else { line.start };
                        envelope = was_envelope;
                        break;
                    }
                },
            }
        }
        ParsedMessage { text, fields: &self.fields, envelope, body }
    }
}

impl<'a> ParsedMessage<'a> {
    /// The header fields in the order received.
    pub fn fields(&self) -> impl Iterator<Item = HeaderField<'a>> + Clone + use<'a> {
        let text = self.text;
        self.fields
            .iter()
            .map(move |span| HeaderField { name: &text[span.name.clone()], value: &text[span.value.clone()] })
    }

    /// Writes the text covered by a signature: every field except `Sig`, an empty line and the body, with LF line ends
    /// and without trailing white space.
    pub fn write_signed_text(&self, out: &mut Vec<u8>) {
        out.clear();
        for field in self.fields() {
            if field.name.eq_ignore_ascii_case(b"Sig") {
                continue;
            }
            out.extend_from_slice(field.name);
            out.extend_from_slice(b": ");
            push_plain_line_ends(out, field.value);
            out.push(b'\n');
        }
        out.push(b'\n');
        if let Some((start, end)) = self.envelope {
            out.extend_from_slice(&self.text[start..end]);
            out.push(b'\n');
        }
        push_plain_line_ends(out, &self.text[self.body..]);
        let end = out.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
        out.truncate(end);
    }
}

/// Whether a byte is white space to Python's `str.strip`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0x1c..=0x1f)
}

/// Repairs the datagrams of old clients, which put an empty line between headers: each pair of newlines becomes one, so
/// three or more still leave an empty line. Trailing newlines have no meaning and are removed first, because every
/// client sends them and hardly any datagram without them needs a copy.
fn repair<'a>(datagram: &'a [u8], repaired: &'a mut Vec<u8>) -> &'a [u8] {
    let end = datagram.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    if end == 0 {
        return &[];
    }
    let text = &datagram[..end];
    // `at + 1` is in bounds, because the text does not end with a newline.
    if !memchr_iter(b'\n', text).any(|at| text[at + 1] == b'\n') {
        return text;
    }
    repaired.clear();
    let mut at = 0;
    while at < text.len() {
        repaired.push(text[at]);
        at += if text[at..].starts_with(b"\n\n") { 2 } else { 1 };
    }
    repaired
}

/// Returns the length of the field name at the start of a line, if a colon follows it.
fn name_length(line: &[u8]) -> Option<usize> {
    let length = line.iter().position(|byte| !matches!(byte, 0x21..=0x39 | 0x3b..=0x7e))?;
    (line[length] == b':').then_some(length)
}

fn push_plain_line_ends(out: &mut Vec<u8>, text: &[u8]) {
    if !text.contains(&b'\r') {
        out.extend_from_slice(text);
        return;
    }
    let mut lines = LineScanner { text, at: 0 };
    while let Some(line) = lines.next() {
        out.extend_from_slice(&text[line.start..line.end]);
        if line.next > line.end {
            out.push(b'\n');
        }
    }
}

/// Iterates over lines that end with LF, CRLF or CR.
struct LineScanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// The position of a line: `start..end` excludes the line end, and `next` is the start of the next line.
struct LineSpan {
    start: usize,
    end: usize,
    next: usize,
}

impl LineScanner<'_> {
    fn next(&mut self) -> Option<LineSpan> {
        let start = self.at;
        if start >= self.text.len() {
            return None;
        }
        let length = memchr2(b'\n', b'\r', &self.text[start..]);
        let end = length.map_or(self.text.len(), |length| start + length);
        let next = match self.text.get(end..) {
            Some([b'\r', b'\n', ..]) => end + 2,
            Some([_, ..]) => end + 1,
            _ => end,
        };
        self.at = next;
        Some(LineSpan { start, end, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(datagram: &[u8]) -> Vec<(String, String)> {
        HeaderParser::default()
            .parse(datagram)
            .fields()
            .map(|field| (field.name.escape_ascii().to_string(), field.value.escape_ascii().to_string()))
            .collect()
    }

    fn signed(datagram: &[u8]) -> String {
        let mut out = Vec::new();
        HeaderParser::default().parse(datagram).write_signed_text(&mut out);
        out.escape_ascii().to_string()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn lines_end_with_lf_crlf_or_cr() {
        let expected = pairs(&[("Op", "ping"), ("PV", "2.1")]);
        for datagram in [
            &b"Op: ping\nPV: 2.1\n"[..],
            b"Op: ping\r\nPV: 2.1\r\n",
            b"Op: ping\rPV: 2.1\r",
            b"Op: ping\nPV: 2.1",
        ] {
            assert_eq!(fields(datagram), expected, "{}", datagram.escape_ascii());
        }
    }

    #[test]
    fn double_newlines_between_headers_are_repaired_and_triple_ones_end_them() {
        assert_eq!(fields(b"Op: ping\n\nPV: 2.1\n\n"), pairs(&[("Op", "ping"), ("PV", "2.1")]));
        assert_eq!(fields(b"Op: ping\n\n\nPV: 2.1\n"), pairs(&[("Op", "ping")]));
        assert_eq!(fields(b"Op: ping\r\n\r\nPV: 2.1\n"), pairs(&[("Op", "ping")]));
        assert_eq!(fields(b"\nOp: ping\n"), pairs(&[]));
        assert_eq!(fields(b"\n\nOp: ping\n"), pairs(&[]));
        assert_eq!(fields(b"\n\n"), pairs(&[]));
        assert_eq!(fields(b""), pairs(&[]));
    }

    #[test]
    fn leading_blanks_of_a_value_are_removed_and_trailing_ones_kept() {
        assert_eq!(fields(b"Op:ping\nPV:\t2.1 \t\n"), pairs(&[("Op", "ping"), ("PV", "2.1 \\t")]));
    }

    #[test]
    fn folded_value_keeps_its_line_ends() {
        assert_eq!(fields(b"Thread: 30\r\n 00\nOp: x\n"), pairs(&[("Thread", "30\\r\\n 00"), ("Op", "x")]));
        assert_eq!(fields(b" Op: ping\nPV: 2\n"), pairs(&[("PV", "2")]));
    }

    #[test]
    fn first_line_that_is_not_a_header_starts_the_body() {
        for line in ["Op : ping", "Foo Bar: x", "junk", ">From x", "\u{7f}: x", "\u{e9}: x"] {
            let datagram = format!("A: 1\n{line}\nB: 2\n");
            assert_eq!(fields(datagram.as_bytes()), pairs(&[("A", "1")]), "{line}");
        }
    }

    #[test]
    fn nameless_and_envelope_lines_are_skipped() {
        assert_eq!(
            fields(b"From me\nA: 1\n: x\n folded\nFrom you\n folded\nB: 2"),
            pairs(&[("A", "1"), ("B", "2")])
        );
        assert_eq!(signed(b"A: 1\n: x\nFrom you\nB: 2"), "A: 1\\nB: 2");
    }

    #[test]
    fn envelope_line_that_ends_the_headers_belongs_to_the_body() {
        assert_eq!(signed(b"A: 1\nFrom you\r\n\r\nbody\n"), "A: 1\\n\\nFrom you\\nbody");
        assert_eq!(signed(b"A: 1\nFrom you\n"), "A: 1\\n\\nFrom you");
        assert_eq!(signed(b"From you\nA: 1\n"), "A: 1");
    }

    #[test]
    fn signed_text_has_every_field_except_the_signature() {
        assert_eq!(
            signed(b"op:ping\r\nSIG: 1\r\nEmpty:\r\nX: a\r\n b\r\nsig: 2\r\n\r\n"),
            "op: ping\\nEmpty: \\nX: a\\n b"
        );
        assert_eq!(signed(b"A: 1  \nB: 2 \n\n"), "A: 1  \\nB: 2");
        assert_eq!(signed(b"A: 1\n\n\nbody\r\nmore\n"), "A: 1\\n\\nbody\\nmore");
        assert_eq!(signed(b"A: 1\n\nB: 2\n"), "A: 1\\nB: 2");
    }
}
