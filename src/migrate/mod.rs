//! `pyzor-migrate`: moves the records of one database to another, between any two engines.
//!
//! A copy reads the source and stores each record in the destination, replacing an existing one. A move (`--delete`)
//! and a merge (`--merge`) add to the destination and keep a journal, so that they can be killed at any moment and run
//! again, and each report is still counted exactly once. One batch of a move or a merge:
//!
//! ```text
//!            transfer                 plan                      apply
//!   source ------------> batch of ------------> one action --------------> destination
//!     ^    scan in        records    compare    per digest:      ^  add
//!     |    passes, skip     ^        with both  add, nothing,    |
//!     |    what is too      |                   or refuse        | 1. before the batch is added:
//!     |    old or not a     |                                    |    counts there, counts to add
//!     |    digest           |                                    v
//!     |                     +---- counts moved so far ------- journal
//!     |                                                          |
//!     |                                                          | 2. after the destination has synced:
//!     +----------------------------------------------------------+    counts moved so far
//!         3. delete what the journal has as moved (--delete only)
//! ```
//!
//! - [`transfer`] scans the source in passes; [`read_ahead`] reads a batch while the one before is written.
//! - [`plan`] decides the action for each digest from the journal, [`moved_counts`] and the destination.
//! - [`apply`] adds to the destination and retries where another writer was faster.
//! - [`moving`] runs these steps for one batch, updates the journal and deletes from the source.
//! - [`recovery`] runs first: it finds out which additions of an interrupted run were made.
//! - [`copying`] replaces plan and apply when there is no journal; [`spool`] holds the keys it must add up at the end.
//! - [`verify`] compares the two databases.

mod apply;
mod arguments;
mod compare;
mod copying;
mod identity;
mod journal;
mod journal_file;
mod moved_counts;
mod moving;
mod options;
mod plan;
mod progress_output;
mod read_ahead;
mod record_limits;
mod recovery;
mod redb_panics;
mod run;
mod same_database;
mod seen_keys;
mod source_key;
mod spool;
mod stop_request;
mod summary;
mod transfer;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use tracing_subscriber::layer::SubscriberExt as _;

use self::options::{CommandLineError, MigrateCommand, MigrateOptions};
use self::progress_output::{WarningPrinter, report};
use crate::os::signals;
use crate::settings::Environment;

/// Exit code for a misused command line.
const EXIT_USAGE: u8 = 2;

/// Runs the program `pyzor-migrate`.
pub fn main() -> ExitCode {
    signals::ignore_file_size_limit();
    let environment = Environment::of_process();
    match options::parse(std::env::args_os().skip(1), &environment) {
        Ok(MigrateCommand::Run(options)) => migrate(&options, &environment),
        Ok(MigrateCommand::Print(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(CommandLineError::Usage(text)) => {
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
        Err(CommandLineError::Established(text)) => {
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::FAILURE
        }
        Err(CommandLineError::Database(text)) => failed(&text),
    }
}

/// Sets up the process and runs the migration to its end.
fn migrate(options: &MigrateOptions, environment: &Environment) -> ExitCode {
    crate::os::restrict_umask();
    redb_panics::silence_caught_panics();
    let warnings = tracing_subscriber::registry().with(WarningPrinter { quiet: options.quiet });
    // Cannot fail: no other subscriber has been set in this process.
    let _ = tracing::subscriber::set_global_default(warnings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    let outcome = runtime.block_on(run::run(options, environment));
    // Does not wait for tasks that still wait for an unresponsive database server.
    runtime.shutdown_background();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    report("error", &error);
    ExitCode::FAILURE
}
