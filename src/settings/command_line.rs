//! The command line, by the rules of Python's optparse, which deployed ones are written by:
//! abbreviations, values that begin with a dash, its texts for mistakes.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::table::{Checked, Kind, OPTIONS, Opt, by_flag};
use crate::protocol::number::integer;

const PROGRAM: &str = "pyzord";
const USAGE: &str = "pyzord [options]";
const ABOUT: &str = "Listen for and process incoming Pyzor connections.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandLine {
    /// To print this and end.
    Print(String),
    /// To run with these values, of which each stands for an option of the table.
    Run(Vec<(&'static Opt, String)>),
}

/// Reads the arguments behind the program's name. A mistake is told as it is to be printed.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, String> {
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    let arguments = arguments
        .map_err(|argument| mistake(&format!("the argument {} is not UTF-8", argument.to_string_lossy())))?;
    let (arguments, unexpected) = normalize(arguments).map_err(|text| mistake(&text))?;
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        Err(error) => return Err(mistake(&explain(&error))),
    };
    if matches.get_flag("help") {
        return Ok(CommandLine::Print(command.render_help().to_string()));
    }
    if matches.get_flag("version") {
        return Ok(CommandLine::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))));
    }
    if let Some(argument) = unexpected {
        return Err(mistake(&format!("unexpected argument: '{}'", argument.escape_debug())));
    }
    let given = OPTIONS.iter().filter_map(|option| {
        let flag = option.flag?;
        let value = match option.kind {
            Kind::Switch => matches.get_flag(flag).then(|| "true".to_owned())?,
            _ => matches.get_one::<String>(flag)?.clone(),
        };
        Some((option, value))
    });
    Ok(CommandLine::Run(given.collect()))
}

fn mistake(text: &str) -> String {
    format!("Usage: {USAGE}\n\n{PROGRAM}: error: {text}\n")
}

fn command() -> Command {
    let options = OPTIONS.iter().filter_map(|option| {
        let flag = option.flag?;
        let mut argument = Arg::new(flag).long(flag);
        if let Some(short) = option.short {
            argument = argument.short(short);
        }
        let help = match option.default {
            "" => option.help.to_owned(),
            default => format!("{} (default: {default})", option.help),
        };
        argument = argument.help(help);
        Some(match option.kind {
            Kind::Switch => argument.action(ArgAction::SetTrue),
            kind => argument.action(ArgAction::Set).value_name(placeholder(kind)).num_args(1),
        })
    });
    Command::new(PROGRAM)
        .about(ABOUT)
        .override_usage(USAGE)
        .help_template("Usage: {usage}\n\n{about}\n\nOptions:\n{options}\n")
        .disable_help_flag(true)
        .no_binary_name(true)
        .args_override_self(true)
        .arg(
            Arg::new("help")
                .long("help")
                .short('h')
                .action(ArgAction::SetTrue)
                .help("show this help and exit"),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .short('V')
                .action(ArgAction::SetTrue)
                .help("show the version and exit"),
        )
        .args(options)
}

fn placeholder(kind: Kind) -> &'static str {
    match kind {
        Kind::Switch | Kind::Text => "TEXT",
        Kind::File => "FILE",
        Kind::Path => "PATH",
        Kind::Number(..) => "NUMBER",
        Kind::Truth => "true|false",
        Kind::Word(_) => "WORD",
    }
}

fn explain(error: &clap::Error) -> String {
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
fn normalize(arguments: Vec<String>) -> Result<(Vec<String>, Option<String>), String> {
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
            let name = unabbreviated(typed)?;
            if name == "help" && value.is_none() {
                // It is shown at once, whatever comes behind it.
                out.push("--help".to_owned());
                return Ok((out, None));
            }
            match by_flag(name) {
                Some(option) if takes_value(option) => {
                    let value =
                        value.or_else(|| rest.next()).ok_or_else(|| requires(&format!("--{name}")))?;
                    out.push(joined(option, &format!("--{name}"), &value)?);
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
                let option = OPTIONS.iter().find(|option| option.short == Some(letter));
                let Some(option) = option.filter(|option| takes_value(option)) else {
                    out.push(format!("-{letter}"));
                    continue;
                };
                let attached = letters.as_str().to_owned();
                let value = if attached.is_empty() { rest.next() } else { Some(attached) };
                let typed = format!("-{letter}");
                let value = value.ok_or_else(|| requires(&typed))?;
                out.push(joined(option, &typed, &value)?);
                break;
            }
        } else {
            unexpected.get_or_insert(argument);
        }
    }
    Ok((out, unexpected))
}

fn takes_value(option: &Opt) -> bool {
    option.kind != Kind::Switch
}

fn requires(typed: &str) -> String {
    format!("{typed} option requires 1 argument")
}

fn takes_none(name: &str) -> String {
    format!("--{name} option does not take a value")
}

/// The whole name of an established option that may be abbreviated; any other name as it is.
fn unabbreviated(typed: &str) -> Result<&str, String> {
    if by_flag(typed).is_some() || typed.is_empty() {
        return Ok(typed);
    }
    let known = OPTIONS.iter().filter(|option| option.established).filter_map(|option| option.flag);
    let mut candidates: Vec<&str> =
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

fn joined(option: &Opt, typed: &str, value: &str) -> Result<String, String> {
    let flag = option.flag.unwrap_or_default();
    if let Kind::Number(_, _, Checked::OnCommandLine) = option.kind {
        let number = number(value)
            .ok_or_else(|| format!("option {typed}: invalid integer value: '{}'", value.escape_debug()))?;
        return Ok(format!("--{flag}={number}"));
    }
    Ok(format!("--{flag}={value}"))
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

    fn parsed(arguments: &[&str]) -> Result<CommandLine, String> {
        parse(arguments.iter().map(OsString::from))
    }

    fn values(arguments: &[&str]) -> Vec<(&'static str, String)> {
        match parsed(arguments).unwrap() {
            CommandLine::Run(values) => {
                values.into_iter().map(|(option, value)| (option.key, value)).collect()
            }
            CommandLine::Print(text) => panic!("{text}"),
        }
    }

    fn told(arguments: &[&str]) -> String {
        let text = parsed(arguments).unwrap_err();
        text.strip_prefix("Usage: pyzord [options]\n\npyzord: error: ").unwrap().trim_end().to_owned()
    }

    #[test]
    fn values_come_attached_or_behind_and_may_begin_with_a_dash() {
        let port = [("Port", "31310".to_owned())];
        for arguments in [
            &["-p31310"][..],
            &["-p", "31310"],
            &["--port=31310"],
            &["--port", "31310"],
            &["--po", "31310"],
            &["--port", "0x7a4e"],
            &["-p", "1", "--port=31310"],
        ] {
            assert_eq!(values(arguments), port, "{arguments:?}");
        }
        assert_eq!(
            values(&["--dsn", "-x=1", "-da", "--port"]),
            [
                ("ListenAddress", "--port".to_owned()),
                ("DigestDB", "-x=1".to_owned()),
                ("debug", "true".to_owned())
            ]
        );
        assert_eq!(
            values(&["--log-file=", "-d", "-d", "-n", "-5"]),
            [("LogFile", String::new()), ("nice", "-5".to_owned()), ("debug", "true".to_owned())]
        );
    }

    #[test]
    fn only_established_options_may_be_abbreviated() {
        assert_eq!(values(&["--hom", "/x"]), [("homedir", "/x".to_owned())]);
        assert_eq!(values(&["--access", "/x"]), [("AccessFile", "/x".to_owned())]);
        assert_eq!(told(&["--check"]), "no such option: --check");
        assert_eq!(
            values(&["--check-config", "--access-order", "last"]),
            [("AccessOrder", "last".to_owned()), ("check-config", "true".to_owned())]
        );
    }

    #[test]
    fn mistakes_are_told_as_optparse_does() {
        assert_eq!(told(&["--nosuch"]), "no such option: --nosuch");
        assert_eq!(told(&["--nosuch=1"]), "no such option: --nosuch");
        assert_eq!(told(&["start", "--nosuch", "1"]), "no such option: --nosuch");
        assert_eq!(told(&["-x"]), "no such option: -x");
        assert_eq!(
            told(&["--p", "1"]),
            "ambiguous option: --p (--password-file, --pid-file, --port, --pre-fork, --processes?)"
        );
        assert_eq!(told(&["-p", "abc"]), "option -p: invalid integer value: 'abc'");
        assert_eq!(told(&["--max-threads", "1.5"]), "option --max-threads: invalid integer value: '1.5'");
        assert_eq!(told(&["--port"]), "--port option requires 1 argument");
        assert_eq!(told(&["-p"]), "-p option requires 1 argument");
        assert_eq!(told(&["--debug=1"]), "--debug option does not take a value");
        assert_eq!(told(&["start"]), "unexpected argument: 'start'");
        assert_eq!(told(&["--", "--port"]), "unexpected argument: '--port'");
        assert_eq!(told(&["--version", "--nosuch"]), "no such option: --nosuch");
    }

    #[test]
    fn help_and_version_are_printed() {
        let version = format!("pyzord {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(parsed(&["-V"]), Ok(CommandLine::Print(version.clone())));
        assert!(matches!(parsed(&["x", "--help", "--nosuch"]), Ok(CommandLine::Print(_))));
        assert_eq!(parsed(&["--version", "x"]), Ok(CommandLine::Print(version.clone())));
        assert_eq!(parsed(&["--vers"]), Ok(CommandLine::Print(version)));
        let Ok(CommandLine::Print(help)) = parsed(&["--help"]) else { panic!() };
        assert!(
            help.starts_with(
                "Usage: pyzord [options]\n\nListen for and process incoming Pyzor connections.\n"
            ),
            "{help}"
        );
        for option in OPTIONS {
            if let Some(flag) = option.flag {
                assert!(
                    help.contains(&format!("--{flag}")) && help.contains(option.help),
                    "{flag} is not in\n{help}"
                );
            }
        }
    }

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
