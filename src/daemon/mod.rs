//! The program `pyzord`, from the command line to the exit code. Signals are blocked before anything else, so that none
//! is lost or ends the process early.

mod check;
mod confinement;
mod console;
mod directories;
mod error;
mod forwarding;
mod identity;
mod listening;
mod manager;
mod operation;
mod operator_sockets;
mod operators;
mod prepare;
mod recovery;
mod reload;
mod retry;
mod runtime;
mod second_opinions;
mod service;
mod start;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use self::check::check;
use self::console::{print, say};
use self::error::{EXIT_FAILURE, StartError, configuration_code};
use self::recovery::recover;
use self::start::start;
use crate::os::signals;
use crate::settings::{self, Environment, ServerInvocation, SettingsError};

/// The exit code for a wrong command line.
const EXIT_USAGE: u8 = 2;

/// Runs the program `pyzord`.
pub fn main() -> ExitCode {
    signals::ignore_meaningless();
    // Signals stay pending until the server or a repair takes them. All other actions unblock them, so that they end
    // the process.
    if let Err(error) = signals::block() {
        say("error", &StartError::System(error));
        return ExitCode::FAILURE;
    }
    let invocation = settings::load(std::env::args_os().skip(1), &Environment::of_process());
    if !matches!(invocation, Ok(ServerInvocation::Serve(_) | ServerInvocation::Recover(_)))
        && let Err(error) = signals::unblock()
    {
        say("error", &StartError::System(error));
        return ExitCode::FAILURE;
    }
    match invocation {
        Ok(ServerInvocation::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(ServerInvocation::CheckConfig(settings)) => {
            settings.notices.iter().for_each(|notice| say("note", notice));
            check(&[], &settings.warnings, &settings.checked_sources())
        }
        Ok(ServerInvocation::Recover(settings)) => recover(&settings),
        Ok(ServerInvocation::Serve(settings)) => start(&settings),
        Err(SettingsError::Usage(text)) => {
            // Stderr may be closed.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
        Err(SettingsError::Configuration { problems, warnings, check: Some(sources), .. }) => {
            check(&problems, &warnings, &sources)
        }
        Err(SettingsError::Configuration { problems, warnings, check: None, may_pass }) => {
            warnings.iter().for_each(|warning| say("warning", warning));
            problems.iter().for_each(|problem| say("error", problem));
            ExitCode::from(if may_pass { EXIT_FAILURE } else { configuration_code() })
        }
    }
}
