//! Formatting numbers and text for output.

/// Formats a count with commas between thousands.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a non-negative number with this many decimals, and with commas between thousands.
pub(super) fn decimal(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    whole.parse().map_or_else(|_| text.clone(), |whole| grouped(whole) + rest)
}

/// Formats a rate with as few decimals as possible, at most three.
pub(super) fn rate(number: f64) -> String {
    let text = decimal(number, 3);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Breaks a text at blanks into lines of at most `width` characters (more for longer words). All lines but the first
/// are indented by two.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let counts = [0, 7, 999, 1000, 12_345, 999_999, 1_000_000, u64::MAX];
        let expected =
            ["0", "7", "999", "1,000", "12,345", "999,999", "1,000,000", "18,446,744,073,709,551,615"];
        assert_eq!(counts.map(grouped), expected);
        assert_eq!(decimal(1234.56, 1), "1,234.6");
        assert_eq!(decimal(999.96, 1), "1,000.0");
        assert_eq!(decimal(0.04, 1), "0.0");
        assert_eq!(decimal(1e6, 0), "1,000,000");
        assert_eq!([3000.5, 20_000.0, 0.125].map(rate), ["3,000.5", "20,000", "0.125"]);
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 20), ["one two three"]);
        assert_eq!(wrapped("one two three", 7), ["one two", "  three"]);
        assert_eq!(wrapped("", 7), [""]);
    }
}
