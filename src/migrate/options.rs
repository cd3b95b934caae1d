//! The command line of `pyzor-migrate`: the options of the Python program and new ones.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{PROGRAM, USAGE, help, specs};
use crate::optparse::{self, Arguments, CommandLine};
use crate::settings::Environment;
use crate::storage;

/// Maximum of `--cleanup-age`, in seconds. The server accepts a higher `CleanupAge`.
const LONGEST_AGE: i64 = i32::MAX as i64;

/// The checked options of a run.
#[derive(Clone, Debug)]
pub(super) struct MigrateOptions {
    pub(super) source: DatabaseSpec,
    pub(super) destination: DatabaseSpec,
    /// Whether moved records are deleted from the source.
    pub(super) delete: bool,
    /// Whether counts are added to those in the destination, instead of replacing them.
    pub(super) merge: bool,
    /// The journal file; none: a default file for a move, no journal for a copy.
    pub(super) journal: Option<PathBuf>,
    /// Records that have not changed for longer are left out; none: every record is transferred.
    pub(super) cleanup_age: Option<Duration>,
    pub(super) verify: VerifyMode,
    /// Whether records are deleted without waiting until Redis has them on its disk.
    pub(super) no_durability: bool,
    pub(super) dry_run: bool,
    pub(super) quiet: bool,
}

/// A database as named on the command line.
#[derive(Clone, Debug)]
pub(super) struct DatabaseSpec {
    pub(super) engine: String,
    pub(super) options: storage::EngineOptions,
}

/// Whether and when source and destination are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerifyMode {
    No,
    /// At the end of a copy or a merge, or after each batch of a move.
    Afterwards,
    /// Instead of a migration.
    Only,
}

/// The command on the command line.
#[derive(Debug)]
pub(super) enum MigrateCommand {
    /// Print this text and exit.
    Print(String),
    Run(Box<MigrateOptions>),
}

/// An error in the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandLineError {
    /// A text for standard error; exit code 2.
    Usage(String),
    /// A line that the Python program prints on standard output; exit code 1.
    Established(String),
    /// A line about a DSN for standard error; exit code 1.
    Database(String),
}

/// Parses the arguments after the program's name.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<MigrateCommand, CommandLineError> {
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    // The argument is not shown: it may be a DSN with a password.
    let arguments = arguments.map_err(|_| usage("an argument is not UTF-8"))?;
    match optparse::parse(specs(), arguments).map_err(|text| usage(&text))? {
        CommandLine::Help => Ok(MigrateCommand::Print(help().render_help().to_string())),
        CommandLine::Version => {
            Ok(MigrateCommand::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))))
        }
        // The argument is not shown, because it may be a part of a DSN with a password.
        CommandLine::Run(Arguments { unexpected: Some(_), .. }) => {
            Err(usage("unexpected argument: put a DSN that contains spaces in quotes"))
        }
        CommandLine::Run(given) => options(&given, environment).map(Box::new).map(MigrateCommand::Run),
    }
}

fn options(given: &Arguments, environment: &Environment) -> Result<MigrateOptions, CommandLineError> {
    // An empty value is a missing one, as in the Python program.
    let text = |name: &str| given.value(name).map(str::to_owned).filter(|text| !text.is_empty());
    let has = |name: &str| given.has(name);
    let (delete, merge, dry_run) = (has("delete"), has("merge"), has("dry-run"));
    let verify = match (has("verify"), has("verify-only")) {
        (_, true) => VerifyMode::Only,
        (true, false) => VerifyMode::Afterwards,
        (false, false) => VerifyMode::No,
    };
    let cleanup_age = text("cleanup-age").map(|age| age.parse::<i64>().unwrap_or(-1));
    if cleanup_age.is_some_and(|age| !(0..=LONGEST_AGE).contains(&age)) {
        return Err(usage(&format!("option --cleanup-age: must be from 0 (no limit) to {LONGEST_AGE}")));
    }
    for (wrong, text) in [
        (verify == VerifyMode::Only && delete, "--verify-only and --delete cannot be combined"),
        (verify == VerifyMode::Only && dry_run, "--verify-only and --dry-run cannot be combined"),
        (
            verify == VerifyMode::Afterwards && dry_run,
            "--dry-run writes nothing to compare: use --verify-only",
        ),
    ] {
        if wrong {
            return Err(usage(text));
        }
    }
    let ends =
        (text("source-engine"), text("source-dsn"), text("destination-engine"), text("destination-dsn"));
    let (Some(se), Some(sd), Some(de), Some(dd)) = ends else {
        return Err(CommandLineError::Established("options --se/--sd/--de/--dd are required".to_owned()));
    };
    for (engine, which) in [(&se, "source"), (&de, "destination")] {
        if !storage::NAMES.contains(&engine.as_str()) {
            let (engine, known) = (engine.escape_debug(), storage::NAMES.join(", "));
            return Err(CommandLineError::Established(format!(
                "Unsupported {which} engine: {engine} (supported: {known})"
            )));
        }
    }
    let cleanup_age =
        cleanup_age.and_then(|age| u64::try_from(age).ok()).filter(|age| *age > 0).map(Duration::from_secs);
    if merge && !delete && verify != VerifyMode::Only && !dry_run && text("journal").is_none() {
        return Err(usage("--merge needs --journal FILE: without it, a rerun would add records twice"));
    }
    Ok(MigrateOptions {
        source: end(se, &sd, cleanup_age, ("source", "--sd"), environment)?,
        destination: end(de, &dd, cleanup_age, ("destination", "--dd"), environment)?,
        delete,
        merge,
        journal: text("journal").map(|path| environment.expand(&path)),
        cleanup_age,
        verify,
        no_durability: has("no-durability"),
        dry_run,
        quiet: has("quiet"),
    })
}

/// Reads the DSN of the source or of the destination and checks it.
fn end(
    engine: String,
    dsn: &str,
    cleanup_age: Option<Duration>,
    (which, option): (&str, &str),
    environment: &Environment,
) -> Result<DatabaseSpec, CommandLineError> {
    let dsn = match dsn.strip_prefix('@') {
        Some(file) => first_line(&environment.expand(file)).map_err(|why| {
            CommandLineError::Database(format!("{option}: cannot read the DSN from {file}: {why}"))
        })?,
        None => dsn.to_owned(),
    };
    if dsn.trim().is_empty() {
        return Err(CommandLineError::Database(format!("the {which} DSN ({option}) is empty")));
    }
    let path = environment.expand(&dsn);
    // Absolute and without links, so that the journal knows the file by one name.
    let path = std::path::absolute(&path).unwrap_or(path);
    let path = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => path,
    };
    let options = storage::EngineOptions { dsn, path, cleanup_age, ..storage::EngineOptions::default() };
    storage::check(&engine, &options)
        .map_err(|why| CommandLineError::Database(format!("the {which} DSN ({option}): {why}")))?;
    Ok(DatabaseSpec { engine, options })
}

fn first_line(path: &Path) -> Result<String, String> {
    const LONGEST: u64 = 4096;
    let mut line = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader = BufReader::new(std::io::Read::take(file, LONGEST));
    reader.read_line(&mut line).map_err(|error| error.to_string())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn usage(text: &str) -> CommandLineError {
    CommandLineError::Usage(format!("Usage: {USAGE}\n\n{PROGRAM}: error: {text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::arguments::OPTIONS;

    fn parsed(line: &str) -> Result<MigrateCommand, CommandLineError> {
        parse(line.split(' ').map(OsString::from), &Environment::of_process())
    }

    fn run(line: &str) -> MigrateOptions {
        match parsed(line).unwrap() {
            MigrateCommand::Run(options) => *options,
            MigrateCommand::Print(text) => panic!("{text}"),
        }
    }

    fn usage_error(line: &str) -> String {
        match parsed(line).unwrap_err() {
            CommandLineError::Usage(text) => text.split("error: ").nth(1).unwrap().trim_end().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    const ENDS: &str = "--se gdbm --sd /x/a --de redis --dd localhost,6379,secret,0";

    #[test]
    fn both_names_of_each_database_option_are_read() {
        let options =
            run("--source-engine=gdbm --source-d /x/a --destination-engine redis --destination-dsn h,1,,2");
        assert_eq!((options.source.engine.as_str(), options.destination.engine.as_str()), ("gdbm", "redis"));
        assert_eq!(options.destination.options.dsn, "h,1,,2");
        let options = run(&format!("{ENDS} --delete -q --cleanup-age 017"));
        assert_eq!(options.source.options.path, Path::new("/x/a"));
        assert!(options.delete && options.quiet && !options.merge);
        assert_eq!(options.cleanup_age, Some(Duration::from_secs(15)));
        assert_eq!(run(&format!("{ENDS} --cleanup-age=0")).cleanup_age, None);
    }

    #[test]
    fn missing_option_and_unknown_engine_have_established_messages() {
        let message = |line| match parsed(line).unwrap_err() {
            CommandLineError::Established(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(message("--se gdbm"), "options --se/--sd/--de/--dd are required");
        assert_eq!(
            message("--se foo --sd x --de gdbm --dd y"),
            "Unsupported source engine: foo (supported: gdbm, mysql, redis, redis_v0)"
        );
        assert_eq!(
            message("--se gdbm --sd x --de foo --dd y"),
            "Unsupported destination engine: foo (supported: gdbm, mysql, redis, redis_v0)"
        );
    }

    #[test]
    fn contradictory_options_are_refused() {
        for (more, expected) in [
            ("--merge", "--merge needs --journal FILE: without it, a rerun would add records twice"),
            ("--verify-only --delete", "--verify-only and --delete cannot be combined"),
            ("--verify --dry-run", "--dry-run writes nothing to compare: use --verify-only"),
            ("--cleanup-age -1", "option --cleanup-age: must be from 0 (no limit) to 2147483647"),
            ("--cleanup-age x", "option --cleanup-age: invalid integer value: 'x'"),
            ("--nosuch", "no such option: --nosuch"),
            ("more", "unexpected argument: put a DSN that contains spaces in quotes"),
        ] {
            assert_eq!(usage_error(&format!("{ENDS} {more}")), expected, "{more}");
        }
    }

    #[test]
    fn every_option_is_in_the_help_and_the_manual() {
        let manual = include_str!("../../docs/man/pyzor-migrate.1");
        let MigrateCommand::Print(help) = parsed("--help").unwrap() else { panic!("no help") };
        for option in OPTIONS {
            for name in [Some(option.spec.long), option.alias].into_iter().flatten() {
                assert!(
                    help.contains(&format!("--{name}")) || help.contains(name),
                    "{name} is not in\n{help}"
                );
                assert!(manual.contains(&format!("Fl -{name}")), "{name} is not in the manual");
            }
        }
    }

    #[test]
    fn malformed_dsn_is_not_shown() {
        let mistake = parsed("--se redis --sd secret --de gdbm --dd x").unwrap_err();
        let CommandLineError::Database(text) = mistake else { panic!("{mistake:?}") };
        assert!(
            text.starts_with("the source DSN (--sd): expected host,port") && !text.contains("secret"),
            "{text}"
        );
    }
}
