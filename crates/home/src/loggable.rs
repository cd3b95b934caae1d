//! Texts from files, made safe for logs: on one line, of limited length, and without keys.

use std::borrow::Cow;

/// The replacement for a text that may be a key. Keys occur in unexpected places if columns or files are mixed up.
const NOT_SHOWN: &str = "(not shown, because it may be a key)";

/// Whether a text has a word of at least the length of a key.
pub fn may_hold_key(text: &str) -> bool {
    text.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| word.len() >= 40)
}

/// Returns the name, or a replacement if it may be a key.
pub fn loggable_name(name: &str) -> &str {
    if may_hold_key(name) { NOT_SHOWN } else { name }
}

/// Returns the text in quotes, escaped and shortened, or a replacement if it may hold a key.
pub fn quoted(text: &str) -> String {
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
