//! Options as this server alone reads them.

mod check_config;
mod problems;
mod values;

use crate::harness::{Finished, Home, finish};

/// Runs the program in this home with just these arguments.
fn run(home: &Home, arguments: &[&str]) -> Finished {
    let mut command = home.bare();
    command.current_dir(home.parent()).args(arguments);
    finish(command)
}
