//! Slow models of parsing integers and protocol versions.

use pyzor_wire::number::VersionError;

/// Returns ASCII text without surrounding white space; none for other text.
fn plain(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    Some(text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']))
}

/// Whether every underscore has a digit on both sides.
fn underscores_fit(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    (0..bytes.len()).all(|at| bytes[at] != b'_' || is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
}

/// Parses an integer like [`pyzor_wire::number::integer`].
pub(crate) fn model_integer(text: &[u8]) -> Option<i64> {
    let text = plain(text).filter(|text| underscores_fit(text))?.replace('_', "");
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    // Numbers beyond 128 bits saturate, too.
    Some(match text.parse::<i128>() {
        Ok(number) => number.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        Err(_) => limit,
    })
}

/// Checks a protocol version like [`pyzor_wire::number::check_version`].
pub(crate) fn model_version(text: &[u8]) -> Result<(), VersionError> {
    // The parser of Rust accepts the same text as that of Python, except for underscores.
    let text = plain(text).filter(|text| underscores_fit(text)).ok_or(VersionError::Malformed)?;
    let number: f64 = text.replace('_', "").parse().map_err(|_| VersionError::Malformed)?;
    match number {
        number if number.is_nan() => Err(VersionError::Malformed),
        number if (2.0..3.0).contains(&number) => Ok(()),
        _ => Err(VersionError::Unsupported),
    }
}
