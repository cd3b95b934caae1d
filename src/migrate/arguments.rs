//! The table of command-line options, one entry for each.

use clap::{Arg, ArgAction, Command};

use crate::optparse::{OptionSpec, OptionValue};

pub(super) const PROGRAM: &str = "pyzor-migrate";
pub(super) const USAGE: &str = "pyzor-migrate --se ENGINE --sd DSN --de ENGINE --dd DSN [options]";
const ABOUT: &str =
    "Move the records of a Pyzor database to another one. Engines: gdbm, mysql, redis and redis_v0.";

pub(super) struct MigrateOption {
    pub(super) spec: OptionSpec,
    pub(super) alias: Option<&'static str>,
    placeholder: &'static str,
    help: &'static str,
}

const fn opt(
    long: &'static str,
    value: OptionValue,
    placeholder: &'static str,
    help: &'static str,
) -> MigrateOption {
    MigrateOption {
        spec: OptionSpec { name: long, long, short: None, value, may_be_abbreviated: true },
        alias: None,
        placeholder,
        help,
    }
}

impl MigrateOption {
    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    const fn short(mut self, short: char) -> Self {
        self.spec.short = Some(short);
        self
    }
}

/// All options except `--help` and `--version`.
pub(super) const OPTIONS: &[MigrateOption] = &[
    opt("source-engine", OptionValue::Text, "ENGINE", "the engine of the database to read").alias("se"),
    opt(
        "source-dsn",
        OptionValue::Text,
        "DSN",
        "the database to read, in the form of DigestDB, or @FILE with the DSN in its first line",
    )
    .alias("sd"),
    opt("destination-engine", OptionValue::Text, "ENGINE", "the engine of the database to write").alias("de"),
    opt("destination-dsn", OptionValue::Text, "DSN", "the database to write, or @FILE").alias("dd"),
    opt(
        "delete",
        OptionValue::None,
        "",
        "delete each record from the source once the destination has stored it",
    ),
    opt(
        "merge",
        OptionValue::None,
        "",
        "add counts to those in the destination instead of replacing them; needs --journal",
    ),
    opt(
        "journal",
        OptionValue::Text,
        "FILE",
        "record in this file what has been moved, so that a rerun adds nothing twice",
    ),
    opt(
        "cleanup-age",
        OptionValue::Number,
        "SECONDS",
        "leave out records that have not changed for longer, and let records in Redis expire at that age",
    ),
    opt(
        "verify",
        OptionValue::None,
        "",
        "compare source and destination at the end, or with --delete before each deletion",
    ),
    opt("verify-only", OptionValue::None, "", "compare source and destination, and change nothing"),
    opt(
        "no-durability",
        OptionValue::None,
        "",
        "with --delete, do not wait until Redis has written the moved records to disk",
    ),
    opt("dry-run", OptionValue::None, "", "read everything, write nothing, and report what would happen"),
    opt("quiet", OptionValue::None, "", "do not show progress").short('q'),
];

pub(super) fn specs() -> Vec<OptionSpec> {
    let names = |option: &MigrateOption| {
        let alias = option.alias.map(|long| OptionSpec { long, short: None, ..option.spec });
        [Some(option.spec), alias].into_iter().flatten().collect::<Vec<_>>()
    };
    OPTIONS.iter().flat_map(names).collect()
}

/// The options as clap prints them; their values are read by `optparse`.
pub(super) fn help() -> Command {
    let argument = |option: &MigrateOption| {
        let mut argument = Arg::new(option.spec.long).long(option.spec.long).help(option.help);
        if let Some(alias) = option.alias {
            argument = argument.visible_alias(alias);
        }
        if let Some(short) = option.spec.short {
            argument = argument.short(short);
        }
        match option.spec.value {
            OptionValue::None => argument.action(ArgAction::SetTrue),
            _ => argument.action(ArgAction::Set).value_name(option.placeholder).num_args(1),
        }
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new(PROGRAM)
        .about(ABOUT)
        .override_usage(USAGE)
        .help_template("Usage: {usage}\n\n{about}\n\nOptions:\n{options}\n")
        .disable_help_flag(true)
        .args(OPTIONS.iter().map(argument))
        .arg(switch("help", "show this help and exit").short('h'))
        .arg(switch("version", "show the version and exit").short('V'))
}
