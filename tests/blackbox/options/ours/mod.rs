//! Options of this server that the Python server does not have or reads differently.

mod check_config;
mod problems;
mod values;

use crate::harness::{Finished, Home, finish};

/// Runs the program in this home with exactly these arguments.
fn run(home: &Home, arguments: &[&str]) -> Finished {
    let mut command = home.bare();
    command.current_dir(home.parent()).args(arguments);
    finish(command)
}
