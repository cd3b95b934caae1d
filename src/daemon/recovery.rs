//! `--recover`: repairs a database of the engine gdbm.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::console::{print, say};
use crate::os::{self, signals};
use crate::settings::Settings;
use crate::storage::{self, Cancel};

/// The interval at which a recovery checks for signals and for its end.
const RECOVERY_STEP: Duration = Duration::from_millis(20);

/// Repairs the database and prints the result.
pub(super) fn recover(settings: &Settings) -> ExitCode {
    os::restrict_umask();
    settings.warnings.iter().for_each(|warning| say("warning", warning));
    let Some(recover) = storage::recovery(&settings.engine) else {
        say(
            "error",
            &format_args!(
                "--recover repairs files of the engine gdbm only, and Engine is {}",
                settings.engine
            ),
        );
        return ExitCode::FAILURE;
    };
    let age = (settings.cleanup_age > 0).then(|| Duration::from_secs(settings.cleanup_age));
    let cancel = Cancel::default();
    let recovery = thread::spawn({
        let (path, cancel) = (settings.digest_db_path.clone(), cancel.clone());
        move || recover(&path, age, &cancel)
    });
    while !recovery.is_finished() {
        if let Some(name) = signals::stopped_within(RECOVERY_STEP) {
            cancel.cancel();
            if !recovery.is_finished() {
                say("error", &format_args!("the repair was stopped by {name}; the database is unchanged"));
                return ExitCode::FAILURE;
            }
        }
    }
    match recovery.join() {
        Ok(Ok(text)) => {
            print(&format!("pyzord: {text}\n"));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            say("error", &error);
            ExitCode::FAILURE
        }
        Err(_) => {
            say("error", &"the thread that repairs the database panicked");
            ExitCode::FAILURE
        }
    }
}
