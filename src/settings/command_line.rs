//! The command line of the server, whose options are those of the table.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use super::table::{NumberCheck, OPTIONS, OptionKind, ServerOption};
use crate::optparse::{OptionSpec, OptionValue, explain, normalize};

const PROGRAM: &str = "pyzord";
const USAGE: &str = "pyzord [options]";
const ABOUT: &str = "Listen for and process incoming Pyzor connections.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandLine {
    /// To print this and end.
    Print(String),
    /// To run with these values, of which each stands for an option of the table.
    Run(Vec<(&'static ServerOption, String)>),
}

/// Reads the arguments behind the program's name. A mistake is returned as it is to be printed.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, String> {
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    let arguments = arguments
        .map_err(|argument| mistake(&format!("the argument {} is not UTF-8", argument.to_string_lossy())))?;
    let (arguments, unexpected) = normalize(&flags(), arguments).map_err(|text| mistake(&text))?;
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
            OptionKind::Switch => matches.get_flag(flag).then(|| "true".to_owned())?,
            _ => matches.get_one::<String>(flag)?.clone(),
        };
        Some((option, value))
    });
    Ok(CommandLine::Run(given.collect()))
}

fn flags() -> Vec<OptionSpec> {
    let flag = |option: &ServerOption| {
        let value = match option.kind {
            OptionKind::Switch => OptionValue::None,
            OptionKind::Number(_, _, NumberCheck::OnCommandLine) => OptionValue::Number,
            _ => OptionValue::Text,
        };
        Some(OptionSpec {
            long: option.flag?,
            short: option.short,
            value,
            may_be_abbreviated: option.established,
        })
    };
    OPTIONS.iter().filter_map(flag).collect()
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
            "" => option.help(),
            default => format!("{} (default: {default})", option.help()),
        };
        argument = argument.help(help);
        Some(match option.kind {
            OptionKind::Switch => argument.action(ArgAction::SetTrue),
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

fn placeholder(kind: OptionKind) -> &'static str {
    match kind {
        OptionKind::Switch | OptionKind::Text | OptionKind::Networks => "TEXT",
        OptionKind::File => "FILE",
        OptionKind::Path => "PATH",
        OptionKind::Number(..) => "NUMBER",
        OptionKind::Truth => "true|false",
        OptionKind::Word(_) => "WORD",
    }
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
                    help.contains(&format!("--{flag}")) && help.contains(&option.help()),
                    "{flag} is not in\n{help}"
                );
            }
        }
    }
}
