//! Command lines by the rules of Python's optparse, which deployed ones are written by: abbreviations,
//! values that begin with a dash, its texts for mistakes.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use pyzor_wire::number::integer;

/// One option of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptionSpec {
    /// Its name, without the dashes.
    pub(crate) long: &'static str,
    /// Its short name.
    pub(crate) short: Option<char>,
    /// What comes behind it.
    pub(crate) value: OptionValue,
    /// Whether an unambiguous prefix is accepted.
    pub(crate) may_be_abbreviated: bool,
}

/// What comes behind an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionValue {
    /// Nothing.
    None,
    /// Any text.
    Text,
    /// A whole number, of any base.
    Number,
}

/// A mistake that clap has found, in the words of optparse.
pub(crate) fn explain(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split('=').next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument => format!("no such option: {argument}"),
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

/// Rewrites the arguments so that there is one way to say everything: flags whole, and each value
/// joined to its flag, whatever it begins with. The first argument that belongs to no flag, if any,
/// comes apart: a mistake in a flag is told before it.
pub(crate) fn normalize(
    flags: &[OptionSpec],
    arguments: Vec<String>,
) -> Result<(Vec<String>, Option<String>), String> {
    let mut out = Vec::new();
    let mut unexpected = None;
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            unexpected = unexpected.or_else(|| rest.next());
            break;
        } else if let Some(long) = argument.strip_prefix("--") {
            let (typed, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let name = unabbreviated(flags, typed)?;
            if name == "help" && value.is_none() {
                // It is shown at once, whatever comes behind it.
                out.push("--help".to_owned());
                return Ok((out, None));
            }
            match flags.iter().find(|flag| flag.long == name) {
                Some(flag) if flag.value != OptionValue::None => {
                    let value =
                        value.or_else(|| rest.next()).ok_or_else(|| requires(&format!("--{name}")))?;
                    out.push(joined(flag, &format!("--{name}"), &value)?);
                }
                Some(_) if value.is_some() => return Err(takes_none(name)),
                None if value.is_some() && matches!(name, "help" | "version") => {
                    return Err(takes_none(name));
                }
                _ => out.push(match value {
                    Some(value) => format!("--{name}={value}"),
                    None => format!("--{name}"),
                }),
            }
        } else if argument.len() > 1 && argument.starts_with('-') {
            let mut letters = argument[1..].chars();
            while let Some(letter) = letters.next() {
                if letter == 'h' {
                    out.push("-h".to_owned());
                    return Ok((out, None));
                }
                let flag = flags.iter().find(|flag| flag.short == Some(letter));
                let Some(flag) = flag.filter(|flag| flag.value != OptionValue::None) else {
                    out.push(format!("-{letter}"));
                    continue;
                };
                let attached = letters.as_str().to_owned();
                let value = if attached.is_empty() { rest.next() } else { Some(attached) };
                let typed = format!("-{letter}");
                let value = value.ok_or_else(|| requires(&typed))?;
                out.push(joined(flag, &typed, &value)?);
                break;
            }
        } else {
            unexpected.get_or_insert(argument);
        }
    }
    Ok((out, unexpected))
}

fn requires(typed: &str) -> String {
    format!("{typed} option requires 1 argument")
}

fn takes_none(name: &str) -> String {
    format!("--{name} option does not take a value")
}

/// The whole name of an option that may be abbreviated; any other name as it is.
fn unabbreviated<'a>(flags: &[OptionSpec], typed: &'a str) -> Result<&'a str, String> {
    if flags.iter().any(|flag| flag.long == typed) || typed.is_empty() {
        return Ok(typed);
    }
    let known = flags.iter().filter(|flag| flag.may_be_abbreviated).map(|flag| flag.long);
    let mut candidates: Vec<&'static str> =
        known.chain(["help", "version"]).filter(|flag| flag.starts_with(typed)).collect();
    candidates.sort_unstable();
    match candidates[..] {
        [] => Ok(typed),
        [one] => Ok(one),
        _ => {
            let candidates: Vec<String> = candidates.iter().map(|flag| format!("--{flag}")).collect();
            Err(format!("ambiguous option: --{typed} ({}?)", candidates.join(", ")))
        }
    }
}

fn joined(flag: &OptionSpec, typed: &str, value: &str) -> Result<String, String> {
    let long = flag.long;
    if flag.value == OptionValue::Number {
        let number = number(value)
            .ok_or_else(|| format!("option {typed}: invalid integer value: '{}'", value.escape_debug()))?;
        return Ok(format!("--{long}={number}"));
    }
    Ok(format!("--{long}={value}"))
}

/// A number as optparse reads it: `0x`, `0b`, `0o` or a leading zero at the very beginning name the
/// base, single underscores may part digits. What exceeds 64 bits becomes the nearest that does not,
/// for the check of the range to refuse.
fn number(text: &str) -> Option<i64> {
    let prefix = text.get(..2).unwrap_or_default().to_ascii_lowercase();
    match prefix.as_str() {
        "0x" => digits(text[2..].trim_end(), 16),
        "0b" if text.len() == 2 => Some(0),
        "0b" => digits(text[2..].trim_end(), 2),
        "0o" => digits(text[2..].trim_end(), 8),
        _ if text.starts_with('0') => digits(text.trim_end(), 8),
        _ => integer(text.as_bytes()),
    }
}

/// Digits of a base without a sign. An underscore may follow what named the base.
fn digits(text: &str, base: u32) -> Option<i64> {
    text.strip_prefix('_').unwrap_or(text).split('_').try_fold(0i64, |number, group| {
        if group.is_empty() {
            return None;
        }
        group.chars().try_fold(number, |number, digit| {
            let digit = i64::from(digit.to_digit(base)?);
            Some(number.saturating_mul(i64::from(base)).saturating_add(digit))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_bases_of_optparse() {
        for (text, expected) in [
            ("31310", Some(31310)),
            ("0x7A4E", Some(31310)),
            ("0b101", Some(5)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0", Some(0)),
            ("00", Some(0)),
            ("0b", Some(0)),
            ("-5", Some(-5)),
            ("-017", Some(-17)),
            (" 017", Some(17)),
            ("1_0", Some(10)),
            ("0_17", Some(15)),
            ("0x_7a_4e ", Some(31310)),
            ("99999999999999999999", Some(i64::MAX)),
            ("", None),
            ("09", None),
            ("0x", None),
            ("0o", None),
            ("1__0", None),
            ("0x1_", None),
            ("-0x5", None),
            ("+0x5", None),
            ("--5", None),
            ("0x-5", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }
}
