//! Lines of text files with any line ends.

/// Splits a text into lines, without the line ends LF, CRLF or CR. A text that ends with a line end has an empty last
/// line.
pub fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            rest = None;
            return Some(text);
        };
        let next = if text[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[next..]);
        Some(&text[..end])
    })
}

/// A line that is neither blank nor a comment.
pub struct SignificantLine<'a> {
    /// The line number, from 1.
    pub number: usize,
    /// The text of the line; none if it is not UTF-8.
    pub text: Option<&'a str>,
}

/// Returns the lines of an accounts, access or servers file that are neither blank nor comments. A comment begins with
/// `#` as the very first character. A byte order mark is skipped.
pub fn significant(file: &[u8]) -> impl Iterator<Item = SignificantLine<'_>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    split(file)
        .enumerate()
        .filter(|(_, line)| !line.starts_with(b"#") && !line.trim_ascii().is_empty())
        .map(|(index, line)| SignificantLine { number: index + 1, text: std::str::from_utf8(line).ok() })
}
