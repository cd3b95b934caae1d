//! `--check-config`: reports every problem of the settings, accounts and access rules.

use std::process::ExitCode;

use super::console::{print, say};
use crate::access::{self, AccessSources, PresentFiles};
use pyzor_home::problem::ConfigProblem;

/// Prints the problems of the settings, and of the accounts and access rules that a start would load.
pub(super) fn check(problems: &[ConfigProblem], warnings: &[String], sources: &AccessSources) -> ExitCode {
    warnings.iter().for_each(|warning| say("warning", warning));
    problems.iter().for_each(|problem| say("error", problem));
    let (mut errors, mut count) = (problems.len(), warnings.len());
    match access::load(sources, PresentFiles::default()) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| say("warning", warning));
            count += loaded.warnings.len();
        }
        Err(error) => {
            say("error", &error);
            errors += 1;
        }
    }
    let plural = |number, what| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    print(&format!(
        "pyzord: the configuration has {} and {}\n",
        plural(errors, "error"),
        plural(count, "warning")
    ));
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
