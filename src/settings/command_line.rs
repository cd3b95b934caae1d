//! The command line of the server: the options of the table.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use super::option::{NumberCheck, OptionKind, ServerOption};
use super::table::OPTIONS;
use crate::optparse::{self, Arguments, CommandLine, OptionSpec, OptionValue};

const PROGRAM: &str = "pyzord";
const USAGE: &str = "pyzord [options]";
const ABOUT: &str = "Listen for and process incoming Pyzor connections.";

/// The action that a command line asks for.
#[derive(Debug)]
pub(super) enum ServerCommand {
    /// Print this text and exit.
    Print(String),
    /// Run with these values, each of which belongs to an option of the table.
    Run(Vec<(&'static ServerOption, String)>),
}

/// Reads the arguments after the program's name.
///
/// # Errors
///
/// A misuse of the command line: the text to print, with the usage line.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<ServerCommand, String> {
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    let arguments = arguments.map_err(|argument| {
        usage_error(&format!("the argument {} is not UTF-8", argument.to_string_lossy()))
    })?;
    match optparse::parse(specs(), arguments).map_err(|text| usage_error(&text))? {
        CommandLine::Help => Ok(ServerCommand::Print(help().render_help().to_string())),
        CommandLine::Version => {
            Ok(ServerCommand::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))))
        }
        CommandLine::Run(Arguments { unexpected: Some(argument), .. }) => {
            Err(usage_error(&format!("unexpected argument: '{}'", argument.escape_debug())))
        }
        CommandLine::Run(arguments) => {
            let given =
                |option: &'static ServerOption| Some((option, arguments.value(option.flag?)?.to_owned()));
            Ok(ServerCommand::Run(OPTIONS.iter().filter_map(given).collect()))
        }
    }
}

fn specs() -> Vec<OptionSpec> {
    let spec = |option: &ServerOption| {
        let long = option.flag?;
        let value = match option.kind {
            OptionKind::Switch(_) => OptionValue::None,
            OptionKind::Number(_, _, NumberCheck::OnCommandLine, _) => OptionValue::Number,
            _ => OptionValue::Text,
        };
        let may_be_abbreviated = option.established;
        Some(OptionSpec { name: long, long, short: option.short, value, may_be_abbreviated })
    };
    OPTIONS.iter().filter_map(spec).collect()
}

fn usage_error(text: &str) -> String {
    format!("Usage: {USAGE}\n\n{PROGRAM}: error: {text}\n")
}

/// The options as clap prints them; their values are read by [`optparse`].
fn help() -> Command {
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
            OptionKind::Switch(_) => argument.action(ArgAction::SetTrue),
            kind => argument.action(ArgAction::Set).value_name(placeholder(kind)).num_args(1),
        })
    });
    Command::new(PROGRAM)
        .about(ABOUT)
        .override_usage(USAGE)
        .help_template("Usage: {usage}\n\n{about}\n\nOptions:\n{options}\n")
        .disable_help_flag(true)
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
        OptionKind::Switch(_)
        | OptionKind::Text(_)
        | OptionKind::Networks(_)
        | OptionKind::Words(..)
        | OptionKind::Senders(_)
        | OptionKind::Origin(_) => "TEXT",
        OptionKind::File(_) => "FILE",
        OptionKind::Path(_) => "PATH",
        OptionKind::Number(..) => "NUMBER",
        OptionKind::Truth(_) | OptionKind::StrictTruth(_) => "true|false",
        OptionKind::Metrics(_) => "ADDRESS",
        OptionKind::Word(..) => "WORD",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<ServerCommand, String> {
        parse(arguments.iter().map(OsString::from))
    }

    fn values(arguments: &[&str]) -> Vec<(&'static str, String)> {
        match parsed(arguments).unwrap() {
            ServerCommand::Run(values) => {
                values.into_iter().map(|(option, value)| (option.key, value)).collect()
            }
            ServerCommand::Print(text) => panic!("{text}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        let text = parsed(arguments).unwrap_err();
        text.strip_prefix("Usage: pyzord [options]\n\npyzord: error: ").unwrap().trim_end().to_owned()
    }

    #[test]
    fn values_may_be_attached_or_separate_and_may_begin_with_a_dash() {
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
        assert_eq!(error(&["--check"]), "no such option: --check");
        assert_eq!(
            values(&["--check-config", "--access-order", "last"]),
            [("AccessOrder", "last".to_owned()), ("check-config", "true".to_owned())]
        );
    }

    #[test]
    fn errors_have_the_words_of_optparse() {
        assert_eq!(error(&["--nosuch"]), "no such option: --nosuch");
        assert_eq!(error(&["--nosuch=1"]), "no such option: --nosuch");
        assert_eq!(error(&["start", "--nosuch", "1"]), "no such option: --nosuch");
        assert_eq!(error(&["-x"]), "no such option: -x");
        assert_eq!(
            error(&["--p", "1"]),
            "ambiguous option: --p (--password-file, --pid-file, --port, --pre-fork, --processes?)"
        );
        assert_eq!(error(&["-p", "abc"]), "option -p: invalid integer value: 'abc'");
        assert_eq!(error(&["--max-threads", "1.5"]), "option --max-threads: invalid integer value: '1.5'");
        assert_eq!(error(&["--port"]), "--port option requires 1 argument");
        assert_eq!(error(&["-p"]), "-p option requires 1 argument");
        assert_eq!(error(&["--debug=1"]), "--debug option does not take a value");
        assert_eq!(error(&["start"]), "unexpected argument: 'start'");
        assert_eq!(error(&["--", "--port"]), "unexpected argument: '--port'");
        assert_eq!(error(&["--version", "--nosuch"]), "no such option: --nosuch");
        assert_eq!(
            error(&["--nosuch", "-p", "abc"]),
            "no such option: --nosuch",
            "the first error is reported"
        );
        assert_eq!(error(&["-d-"]), "no such option: --");
    }

    #[test]
    fn help_and_version_are_printed() {
        let version = format!("pyzord {}\n", env!("CARGO_PKG_VERSION"));
        for arguments in [&["-V"][..], &["--version", "x"], &["--vers"]] {
            let Ok(ServerCommand::Print(printed)) = parsed(arguments) else { panic!("{arguments:?}") };
            assert_eq!(printed, version, "{arguments:?}");
        }
        assert!(matches!(parsed(&["x", "--help", "--nosuch"]), Ok(ServerCommand::Print(_))));
        let Ok(ServerCommand::Print(help)) = parsed(&["--help"]) else { panic!() };
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
