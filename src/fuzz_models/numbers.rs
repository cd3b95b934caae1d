//! Whole numbers and protocol versions, read by slow models.

use pyzor_wire::number::VersionError;

/// Text without its blanks, if it is ASCII.
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

/// Reads a whole number as [`pyzor_wire::number::integer`] does, by the longer way.
pub(crate) fn model_integer(text: &[u8]) -> Option<i64> {
    let text = plain(text).filter(|text| underscores_fit(text))?.replace('_', "");
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    // What does not fit into 128 bits fits into 64 even less.
    Some(match text.parse::<i128>() {
        Ok(number) => number.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
        Err(_) => limit,
    })
}

/// Checks a protocol version as [`pyzor_wire::number::check_version`] does, by the longer way.
pub(crate) fn model_version(text: &[u8]) -> Result<(), VersionError> {
    // Rust's own reader takes what Python's does, but for underscores, which it does not know.
    let text = plain(text).filter(|text| underscores_fit(text)).ok_or(VersionError::Malformed)?;
    let number: f64 = text.replace('_', "").parse().map_err(|_| VersionError::Malformed)?;
    match number {
        number if number.is_nan() => Err(VersionError::Malformed),
        number if (2.0..3.0).contains(&number) => Ok(()),
        _ => Err(VersionError::Unsupported),
    }
}
