//! The lines of an accounts or access file.

use std::borrow::Cow;

/// A line that is neither blank nor a comment.
pub(super) struct Line<'a> {
    /// The line's number, from 1.
    pub(super) number: usize,
    /// The line's text, or none where it is not UTF-8.
    pub(super) text: Option<&'a str>,
}

/// The lines of a file that say something. Lines end as in any text file of any system; a comment
/// has its `#` as the very first character; a byte order mark is passed over.
pub(super) fn significant(file: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    crate::lines::of(file)
        .enumerate()
        .filter(|(_, line)| !line.starts_with(b"#") && !line.trim_ascii().is_empty())
        .map(|(index, line)| Line { number: index + 1, text: std::str::from_utf8(line).ok() })
}

/// A text from a file as a person can read it in a log: one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let shown: Cow<'_, str> = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    };
    format!("'{}'", shown.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
}
