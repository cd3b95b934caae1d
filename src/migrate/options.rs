//! The command line of `pyzor-migrate`: the established one's options, and those of ours.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{PROGRAM, USAGE, help, specs};
use crate::optparse::{self, Arguments, CommandLine};
use crate::settings::Environment;
use crate::storage;

/// The longest that `--cleanup-age` may be, as with the server's `CleanupAge`.
const LONGEST_AGE: i64 = i32::MAX as i64;

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct MigrateOptions {
    pub(super) source: DatabaseSpec,
    pub(super) destination: DatabaseSpec,
    /// Whether what has been moved is deleted from the source.
    pub(super) delete: bool,
    /// Whether counts are added to those in the destination.
    pub(super) merge: bool,
    /// Where to remember what has been moved.
    pub(super) journal: Option<PathBuf>,
    /// How old a record may be.
    pub(super) cleanup_age: Option<Duration>,
    pub(super) verify: VerifyMode,
    /// Whether records are deleted before those in the destination are on its disk.
    pub(super) no_durability: bool,
    /// Whether nothing is to be written.
    pub(super) dry_run: bool,
    /// Whether progress is not shown.
    pub(super) quiet: bool,
}

/// A database.
#[derive(Clone, Debug)]
pub(super) struct DatabaseSpec {
    pub(super) engine: String,
    pub(super) options: storage::EngineOptions,
}

/// Whether source and destination are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerifyMode {
    No,
    Afterwards,
    Only,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum MigrateCommand {
    /// To print this and end.
    Print(String),
    /// To work.
    Run(Box<MigrateOptions>),
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandLineError {
    /// It makes no sense: to be printed on the standard error.
    Usage(String),
    /// What the established program prints on its standard output.
    Established(String),
    /// A database cannot be what is named: one line.
    Database(String),
}

/// Reads the arguments behind the program's name.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<MigrateCommand, CommandLineError> {
    let arguments: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    // It may be a DSN with a password.
    let arguments = arguments.map_err(|_| usage("an argument is not UTF-8"))?;
    match optparse::parse(specs(), arguments).map_err(|text| usage(&text))? {
        CommandLine::Help => Ok(MigrateCommand::Print(help().render_help().to_string())),
        CommandLine::Version => {
            Ok(MigrateCommand::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))))
        }
        // The argument is not shown, because it may be a part of a DSN with a password.
        CommandLine::Run(Arguments { unexpected: Some(_), .. }) => {
            Err(usage("there is an argument that belongs to no option; a DSN with blanks needs quotes"))
        }
        CommandLine::Run(given) => options(&given, environment).map(Box::new).map(MigrateCommand::Run),
    }
}

fn options(given: &Arguments, environment: &Environment) -> Result<MigrateOptions, CommandLineError> {
    // As in the established program, an empty value is as good as none.
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
        return Err(usage(&format!("option --cleanup-age: must be from 0 (no age) to {LONGEST_AGE}")));
    }
    for (wrong, text) in [
        (verify == VerifyMode::Only && delete, "--verify-only changes nothing: leave --delete out"),
        (verify == VerifyMode::Only && dry_run, "--verify-only and --dry-run cannot be combined"),
        (
            verify == VerifyMode::Afterwards && dry_run,
            "--dry-run leaves nothing to verify: use --verify-only",
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
                "Unsupported {which} engine: {engine} (there are {known})"
            )));
        }
    }
    let cleanup_age =
        cleanup_age.and_then(|age| u64::try_from(age).ok()).filter(|age| *age > 0).map(Duration::from_secs);
    if merge && !delete && verify != VerifyMode::Only && !dry_run && text("journal").is_none() {
        return Err(usage("--merge needs --journal FILE, without which a rerun would add records twice"));
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

/// Reads the name of a database, and sees whether it makes sense.
fn end(
    engine: String,
    dsn: &str,
    cleanup_age: Option<Duration>,
    (which, option): (&str, &str),
    environment: &Environment,
) -> Result<DatabaseSpec, CommandLineError> {
    let dsn = match dsn.strip_prefix('@') {
        Some(file) => first_line(&environment.expand(file)).map_err(|why| {
            CommandLineError::Database(format!("{option}: cannot read a DSN from {file}: {why}"))
        })?,
        None => dsn.to_owned(),
    };
    if dsn.trim().is_empty() {
        return Err(CommandLineError::Database(format!("the {which}'s DSN ({option}) is empty")));
    }
    let path = environment.expand(&dsn);
    // By one name, wherever the program is started.
    let path = std::path::absolute(&path).unwrap_or(path);
    let path = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    };
    let options = storage::EngineOptions { dsn, path, cleanup_age, ..storage::EngineOptions::default() };
    storage::check(&engine, &options)
        .map_err(|why| CommandLineError::Database(format!("the {which}'s DSN ({option}): {why}")))?;
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
    fn both_names_of_each_end_are_read() {
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
    fn what_is_missing_or_unknown_is_told_in_the_established_words() {
        let told = |line| match parsed(line).unwrap_err() {
            CommandLineError::Established(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("--se gdbm"), "options --se/--sd/--de/--dd are required");
        assert_eq!(
            told("--se foo --sd x --de gdbm --dd y"),
            "Unsupported source engine: foo (there are gdbm, mysql, redis, redis_v0)"
        );
        assert_eq!(
            told("--se gdbm --sd x --de foo --dd y"),
            "Unsupported destination engine: foo (there are gdbm, mysql, redis, redis_v0)"
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (more, expected) in [
            ("--merge", "--merge needs --journal FILE, without which a rerun would add records twice"),
            ("--verify-only --delete", "--verify-only changes nothing: leave --delete out"),
            ("--verify --dry-run", "--dry-run leaves nothing to verify: use --verify-only"),
            ("--cleanup-age -1", "option --cleanup-age: must be from 0 (no age) to 2147483647"),
            ("--cleanup-age x", "option --cleanup-age: invalid integer value: 'x'"),
            ("--nosuch", "no such option: --nosuch"),
            ("more", "there is an argument that belongs to no option; a DSN with blanks needs quotes"),
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
    fn a_malformed_dsn_is_not_repeated() {
        let mistake = parsed("--se redis --sd secret --de gdbm --dd x").unwrap_err();
        let CommandLineError::Database(text) = mistake else { panic!("{mistake:?}") };
        assert!(
            text.starts_with("the source's DSN (--sd): expected host,port") && !text.contains("secret"),
            "{text}"
        );
    }
}
