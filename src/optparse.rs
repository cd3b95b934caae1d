//! Command lines by the rules of Python's optparse: unambiguous abbreviations, values that begin with a dash, and the
//! established wording of errors.

use std::collections::BTreeMap;

use pyzor_wire::number::integer;

/// One name of an option on the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptionSpec {
    /// The name under which the value is returned.
    pub(crate) name: &'static str,
    /// The long name, without the dashes.
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    /// The kind of value that follows the option.
    pub(crate) value: OptionValue,
    /// Whether an unambiguous prefix is accepted.
    pub(crate) may_be_abbreviated: bool,
}

/// The kind of value that follows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionValue {
    /// Nothing.
    None,
    /// Any text.
    Text,
    /// A whole number, in base 2, 8, 10 or 16.
    Number,
}

/// The result of reading a command line without errors.
#[derive(Debug)]
pub(crate) enum CommandLine {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// Any other command line.
    Run(Arguments),
}

/// The values of a command line.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    values: BTreeMap<&'static str, String>,
    /// The first argument that belongs to no option.
    pub(crate) unexpected: Option<String>,
}

impl Arguments {
    /// Whether an option was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Returns the last value of an option. A number is decimal; an option without a value has the value `true`.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

const HELP: OptionSpec = built_in("help", 'h');
const VERSION: OptionSpec = built_in("version", 'V');

const fn built_in(name: &'static str, short: char) -> OptionSpec {
    OptionSpec { name, long: name, short: Some(short), value: OptionValue::None, may_be_abbreviated: true }
}

/// Reads the arguments after the program's name. `--help` and `--version` are added to the options.
///
/// # Errors
///
/// The first error, in the words of optparse. An argument that belongs to no option is not an error here.
pub(crate) fn parse(options: Vec<OptionSpec>, arguments: Vec<String>) -> Result<CommandLine, String> {
    let mut options = options;
    options.extend([HELP, VERSION]);
    let mut reader = ArgumentReader { options, rest: arguments.into_iter(), arguments: Arguments::default() };
    while let Some(argument) = reader.rest.next() {
        if argument == "--" {
            let next = reader.rest.next();
            reader.arguments.unexpected = reader.arguments.unexpected.or(next);
            break;
        } else if let Some(long) = argument.strip_prefix("--") {
            reader.long_option(long)?;
        } else if let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            reader.short_options(letters)?;
        } else {
            reader.arguments.unexpected.get_or_insert(argument);
        }
        if reader.arguments.has(HELP.name) {
            // Later arguments, even bad ones, are not read.
            return Ok(CommandLine::Help);
        }
    }
    match reader.arguments.has(VERSION.name) {
        true => Ok(CommandLine::Version),
        false => Ok(CommandLine::Run(reader.arguments)),
    }
}

struct ArgumentReader {
    options: Vec<OptionSpec>,
    rest: std::vec::IntoIter<String>,
    arguments: Arguments,
}

impl ArgumentReader {
    /// Reads `name` or `name=value`.
    fn long_option(&mut self, text: &str) -> Result<(), String> {
        let (typed, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let option = self.find(typed)?;
        let shown = format!("--{}", option.long);
        if option.value == OptionValue::None && value.is_some() {
            return Err(format!("{shown} option does not take a value"));
        }
        self.take(option, &shown, value)
    }

    /// Reads a group of short options. The first one with a value takes the rest of the text as its value.
    fn short_options(&mut self, letters: &str) -> Result<(), String> {
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let option = self.options.iter().find(|option| option.short == Some(letter)).copied();
            let option = option.ok_or_else(|| unknown(&format!("-{letter}")))?;
            let has_value = option.value != OptionValue::None;
            let attached = (has_value && !letters.as_str().is_empty()).then(|| letters.as_str().to_owned());
            self.take(option, &format!("-{letter}"), attached)?;
            if has_value || option.name == HELP.name {
                break;
            }
        }
        Ok(())
    }

    /// Finds the option with this long name, or with the only long name that begins like this.
    fn find(&self, typed: &str) -> Result<OptionSpec, String> {
        if let Some(option) = self.options.iter().find(|option| option.long == typed) {
            return Ok(*option);
        }
        let is_candidate = |option: &&OptionSpec| {
            option.may_be_abbreviated && option.long.starts_with(typed) && !typed.is_empty()
        };
        let mut candidates: Vec<&OptionSpec> = self.options.iter().filter(is_candidate).collect();
        candidates.sort_unstable_by_key(|option| option.long);
        match candidates[..] {
            [] => Err(unknown(&format!("--{typed}"))),
            [option] => Ok(*option),
            _ => {
                let names: Vec<String> =
                    candidates.iter().map(|option| format!("--{}", option.long)).collect();
                Err(format!("ambiguous option: --{typed} ({}?)", names.join(", ")))
            }
        }
    }

    /// Stores the value of an option: the attached one, or the next argument.
    fn take(&mut self, option: OptionSpec, shown: &str, attached: Option<String>) -> Result<(), String> {
        let value = || attached.or_else(|| self.rest.next());
        let value = match option.value {
            OptionValue::None => "true".to_owned(),
            OptionValue::Text => value().ok_or_else(|| requires(shown))?,
            OptionValue::Number => {
                let text = value().ok_or_else(|| requires(shown))?;
                let number = number(&text).ok_or_else(|| {
                    format!("option {shown}: invalid integer value: '{}'", text.escape_debug())
                })?;
                number.to_string()
            }
        };
        self.arguments.values.insert(option.name, value);
        Ok(())
    }
}

fn unknown(shown: &str) -> String {
    format!("no such option: {shown}")
}

fn requires(shown: &str) -> String {
    format!("{shown} option requires 1 argument")
}

/// Reads a number as optparse does: `0x`, `0b`, `0o` or a leading zero at the very beginning select the base, and
/// single underscores may separate digits. A number beyond 64 bits becomes the nearest one of 64 bits, which the check
/// of the option's range refuses.
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

/// Reads unsigned digits of a base, before which an underscore may separate the prefix.
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
