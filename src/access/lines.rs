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

/// What a log has in the place of what may be a key, which is in no log: columns may have been mixed
/// up, or lines of the wrong file been read.
const NOT_SHOWN: &str = "(not shown, since it is as long as a key)";

/// Whether a text has a word as long as a key, or longer.
pub(super) fn may_hold_key(text: &str) -> bool {
    text.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| word.len() >= 40)
}

/// A name as a log has it.
pub(super) fn shown(name: &str) -> &str {
    if may_hold_key(name) { NOT_SHOWN } else { name }
}

/// A text from a file as a person can read it in a log: one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if may_hold_key(text) {
        return NOT_SHOWN.to_owned();
    }
    let shown: Cow<'_, str> = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    };
    format!("'{}'", shown.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
}
