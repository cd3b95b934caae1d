//! Numbers and texts as operators read them.

use std::fmt::Write as _;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Formats a count with commas between thousands.
pub(crate) fn grouped(count: u64) -> String {
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

/// Formats a count with its unit: `1 digest`, `1,200 digests`.
pub(crate) fn counted(count: u64, unit: &str) -> String {
    format!("{} {unit}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Formats a rate per second: whole from 100 on, with one decimal below. A rate that is not a number is 0.
pub(crate) fn rate(per_second: f64) -> String {
    let rate = per_second.max(0.0);
    if rate >= 99.95 {
        return grouped(rate.round() as u64);
    }
    let text = format!("{rate:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Formats a period in its largest unit: `3 days`.
pub(crate) fn period(seconds: u64) -> String {
    let (amount, unit) = match seconds {
        DAY.. => (seconds / DAY, "day"),
        HOUR.. => (seconds / HOUR, "hour"),
        MINUTE.. => (seconds / MINUTE, "minute"),
        _ => (seconds, "second"),
    };
    counted(amount, unit)
}

/// Formats a period in its two largest units: `3 days 4 hours`.
pub(crate) fn long_period(seconds: u64) -> String {
    let unit = match seconds {
        DAY.. => DAY,
        HOUR.. => HOUR,
        MINUTE.. => MINUTE,
        _ => return period(seconds),
    };
    let rest = match (seconds % unit, unit) {
        (rest, DAY) if rest < HOUR => 0,
        (rest, HOUR) if rest < MINUTE => 0,
        (rest, _) => rest,
    };
    match rest {
        0 => period(seconds),
        rest => format!("{} {}", period(seconds), period(rest)),
    }
}

/// Formats a number of bytes: `12.3 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut size = count as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if size < 1023.95 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    format!("{size:.1} {unit}")
}

/// Formats a duration in microseconds: `63 µs`, `1.2 ms`, `3.4 s`.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..999_950 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// Escapes characters that control a terminal, begin a line, or change the direction of the text.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            // Writing to a string never fails.
            let _ = write!(out, "{}", character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Whether a character controls a terminal, begins a line, or changes the direction of the text.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_rates_have_separated_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        let rates = [0.0, 0.04, 12.0, 12.34, 99.96, 1234.5, f64::NAN, -1.0];
        assert_eq!(rates.map(rate), ["0", "0", "12", "12.3", "100", "1,235", "0", "0"]);
        assert_eq!(rate(f64::INFINITY), grouped(u64::MAX));
    }

    #[test]
    fn periods_have_one_unit_or_two() {
        let seconds = [0, 1, 59, 60, 3600, 86_399, 86_400, 300_000];
        let short =
            ["0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "23 hours", "1 day", "3 days"];
        assert_eq!(seconds.map(period), short);
        let long = ["0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "23 hours 59 minutes"];
        assert_eq!(seconds.map(long_period)[..6], long);
        assert_eq!([86_400 + 59, 300_000].map(long_period), ["1 day", "3 days 11 hours"]);
        assert_eq!([61, 3659].map(long_period), ["1 minute 1 second", "1 hour"]);
    }

    #[test]
    fn sizes_and_durations_have_the_unit_that_fits() {
        let sizes = [0, 1023, 1024, 1_048_575, 123_456_789, u64::MAX];
        assert_eq!(
            sizes.map(bytes),
            ["0 bytes", "1023 bytes", "1.0 KiB", "1.0 MiB", "117.7 MiB", "16.0 EiB"]
        );
        let durations = [0, 999, 1000, 999_949, 999_950, 67_000_000];
        assert_eq!(durations.map(micros), ["0 µs", "999 µs", "1.0 ms", "999.9 ms", "1.0 s", "67.0 s"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("plain, Größe"), "plain, Größe");
        assert_eq!(printable("\x1b[2J\r\n\u{9b}1m\u{202e}x"), r"\u{1b}[2J\r\n\u{9b}1m\u{202e}x",);
    }
}
