//! Numbers, parsed as Python does, because the established server is written in Python.

/// Error of a protocol version that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionError {
    /// The text is not a number.
    Malformed,
    /// The integer part of the number is not 2.
    Unsupported,
}

/// Checks a protocol version: any decimal number with the integer part 2.
///
/// # Errors
///
/// The text is not a number, or another version. Infinity counts as another version.
pub fn check_version(text: &[u8]) -> Result<(), VersionError> {
    if text == b"2.1" {
        return Ok(());
    }
    let number = float(text).ok_or(VersionError::Malformed)?;
    if number.is_nan() {
        Err(VersionError::Malformed)
    } else if number.trunc() == 2.0 {
        Ok(())
    } else {
        Err(VersionError::Unsupported)
    }
}

/// Parses an integer. Allows a sign, leading zeros, single underscores between digits, and white space around it.
/// Saturates at the limits of 64 bits.
pub fn integer(text: &[u8]) -> Option<i64> {
    let text = trim(text);
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !are_digits(digits) {
        return None;
    }
    let digits = digits.iter().filter(|byte| **byte != b'_').map(|digit| i64::from(digit - b'0'));
    // Negative numbers are built downwards, because i64::MIN has no positive counterpart.
    Some(if negative {
        digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_sub(digit))
    } else {
        digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_add(digit))
    })
}

fn float(text: &[u8]) -> Option<f64> {
    let text = trim(text);
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let word = unsigned.to_ascii_lowercase();
    let is_word = matches!(word.as_slice(), b"inf" | b"infinity" | b"nan");
    if !is_word && !is_decimal(&word) {
        return None;
    }
    let plain: String = text.iter().filter(|byte| **byte != b'_').map(|byte| char::from(*byte)).collect();
    plain.parse().ok()
}

/// Whether the text is `digits[.digits][e[sign]digits]`. The digits on one side of the point may be missing.
fn is_decimal(text: &[u8]) -> bool {
    let (mantissa, exponent) = match text.iter().position(|byte| *byte == b'e') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    let exponent =
        exponent.map(|text| text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text));
    !(whole.is_empty() && fraction.is_empty())
        && (whole.is_empty() || are_digits(whole))
        && (fraction.is_empty() || are_digits(fraction))
        && exponent.is_none_or(are_digits)
}

/// Whether the text is one or more digits, with at most one underscore between two of them.
fn are_digits(text: &[u8]) -> bool {
    !text.is_empty()
        && text.split(|byte| *byte == b'_').all(|run| !run.is_empty() && run.iter().all(u8::is_ascii_digit))
}

/// Removes the white space allowed around numbers, which excludes the separators 0x1c to 0x1f.
fn trim(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// Appends a number in decimal. Several times as fast as `write!`.
pub fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_integer_part_two_are_accepted() {
        for text in [
            "2", "2.", "2.0", "2.1", "2.9", "+2.1", "002.1", "2e0", "20e-1", "2.1_0", "2_1e-1", " 2.1\n ",
            "2.1\t",
        ] {
            assert_eq!(check_version(text.as_bytes()), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn other_versions_are_unsupported() {
        let nines = "9".repeat(5000);
        for text in [
            "1",
            "1.9999999999",
            "3.0",
            ".2",
            "-2",
            "-2.1",
            "2_0",
            "2.99999999999999999999",
            "inf",
            "-inf",
            "Infinity",
            "1e400",
            &nines,
        ] {
            assert_eq!(check_version(text.as_bytes()), Err(VersionError::Unsupported), "{text:?}");
        }
    }

    #[test]
    fn text_that_is_not_a_number_is_malformed() {
        for text in [
            "",
            "abc",
            "nan",
            "NaN",
            "-nan",
            "0x2",
            "2,1",
            "2.1 x",
            "2.1\0",
            "2__1",
            "_2",
            "2_",
            "2._1",
            ".",
            "e1",
            "2e",
            "+-2",
            "2.1\u{1f}",
            "\u{1c}2.1",
            "2\u{e9}",
            "in",
            "infin",
        ] {
            assert_eq!(check_version(text.as_bytes()), Err(VersionError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn integers_are_parsed_as_python_does() {
        for (text, number) in [
            ("+1795343270", 1_795_343_270),
            ("01795343270", 1_795_343_270),
            ("1_795_343_270", 1_795_343_270),
            (" -5\t", -5),
            ("-0", 0),
            ("99999999999999999999", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-99999999999999999999", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()), Some(number), "{text:?}");
        }
        for text in ["", " ", "abc", "1.5", "1__0", "_1", "1_", "0x1", "--1", "1 0"] {
            assert_eq!(integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_of_every_size_are_written() {
        for number in [0, 9, 10, -1, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
