//! Texts of files as a log may have them: on one line, not too long, and without keys.

use std::borrow::Cow;

/// What a log has in the place of what may be a key, which is in no log: columns may have been mixed
/// up, or lines of the wrong file been read.
const NOT_SHOWN: &str = "(not shown, since it is as long as a key)";

/// Whether a text has a word as long as a key, or longer.
pub fn may_hold_key(text: &str) -> bool {
    text.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| word.len() >= 40)
}

/// A name as a log has it.
pub fn loggable_name(name: &str) -> &str {
    if may_hold_key(name) { NOT_SHOWN } else { name }
}

/// A text from a file as a person can read it in a log: one line, not too long, in quotes.
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
