//! `pyzorctl`: shows the state and the counters of the running server, makes it reload, and tests whether it answers.
//!
//! All commands but `health` use the control socket. `health` sends requests over UDP, like a mail host.

mod arguments;
mod connection;
mod error;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod host_port;
mod interval;
mod layout;
mod output;
mod probe;
mod reload;
mod remote;
mod stats;
mod status;
mod target;
mod upstream;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use self::arguments::{Arguments, CtlCommand};
use self::error::NoAnswer;
use self::output::Outcome;
use crate::control::figures::printable;
use crate::control::reply::{ControlReply, Health};
use crate::control::request::ControlRequest;
use crate::os::signals;
use crate::settings::Environment;

/// Exit code of a command that succeeded, and of a good health.
const EXIT_WELL: u8 = 0;
/// Exit code of a reload that the server refused.
const EXIT_REFUSED: u8 = 1;
/// Exit code for no answer, and for a wrong command line: "unknown" to monitoring systems.
const EXIT_UNKNOWN: u8 = 3;

/// Runs the program `pyzorctl`.
pub fn main() -> ExitCode {
    signals::ignore_file_size_limit();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let text = format!("{}\n", error.to_string().trim_end());
            return Outcome { text, code: EXIT_WELL }.print();
        }
        Err(error) => {
            output::complain(&error.to_string());
            return EXIT_UNKNOWN.into();
        }
    };
    let environment = Environment::of_process();
    match run(&arguments, &environment) {
        Ok(outcome) => outcome.print(),
        Err(error) => unanswered(&arguments, &error),
    }
}

/// Runs a command until it is done. `stats --interval` returns only if the server cannot be reached at first, or if its
/// output cannot be written.
fn run(arguments: &Arguments, environment: &Environment) -> Result<Outcome, NoAnswer> {
    let request = match &arguments.command {
        CtlCommand::Health { server, timeout } => {
            let server = target::server(arguments, environment, server.as_ref())?;
            return Ok(health::run(&server, *timeout)?.outcome(arguments.json));
        }
        CtlCommand::Stats { interval: Some(interval) } => {
            let path = target::socket(arguments, environment)?;
            return interval::run(&path, *interval, arguments.json);
        }
        CtlCommand::Status => ControlRequest::Status {},
        CtlCommand::Stats { interval: None } => ControlRequest::Stats {},
        CtlCommand::Reload => ControlRequest::Reload {},
        CtlCommand::Reopen => ControlRequest::Reopen {},
    };
    let path = target::socket(arguments, environment)?;
    let received = connection::ask(&path, request)?;
    let (text, code) = match (request, &received.reply) {
        (ControlRequest::Status {}, ControlReply::Status(report)) => {
            (status::render(report), exit_code(report.health))
        }
        (ControlRequest::Stats {}, ControlReply::Stats(report)) => (stats::render(report), EXIT_WELL),
        (ControlRequest::Reload {} | ControlRequest::Reopen {}, ControlReply::Reloaded(report)) => {
            (reload::render(report), EXIT_WELL)
        }
        _ => return Err(NoAnswer::Malformed { path, reason: "it answers another request".to_owned() }),
    };
    let text = if arguments.json { output::json_line(&received.json) } else { text };
    Ok(Outcome { text, code })
}

const fn exit_code(health: Health) -> u8 {
    match health {
        Health::Well => EXIT_WELL,
        Health::Degraded => 1,
        Health::Critical => 2,
    }
}

/// Reports that there is no answer: on standard output for the commands whose output monitoring systems read.
fn unanswered(arguments: &Arguments, error: &NoAnswer) -> ExitCode {
    let (is_test, is_reload) = match arguments.command {
        CtlCommand::Status | CtlCommand::Health { .. } => (true, false),
        CtlCommand::Stats { .. } => (false, false),
        CtlCommand::Reload | CtlCommand::Reopen => (false, true),
    };
    let code = match error {
        NoAnswer::Refused(_) if is_reload => EXIT_REFUSED,
        _ => EXIT_UNKNOWN,
    };
    let line = printable(&error.to_string());
    if arguments.json {
        return Outcome { text: output::json_line(&serde_json::json!({ "error": error.to_string() })), code }
            .print();
    }
    if is_test {
        return Outcome { text: format!("unknown: {line}\n"), code }.print();
    }
    output::complain(&format!("pyzorctl: error: {line}\n"));
    code.into()
}
