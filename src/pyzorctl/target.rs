//! The server that a command line means.

use std::path::PathBuf;

use super::arguments::Arguments;
use super::error::NoAnswer;
use super::host_port::HostPort;
use crate::settings::{self, ContactError, Environment, ServerContact};

/// Returns the path of the control socket: as given, or according to the config of the homedir.
///
/// # Errors
///
/// The config cannot be used, or has no control socket.
pub(super) fn socket(arguments: &Arguments, environment: &Environment) -> Result<PathBuf, NoAnswer> {
    if let Some(path) = &arguments.socket {
        return Ok(path.clone());
    }
    let contact = contact(arguments, environment)?;
    contact.control_socket.ok_or_else(|| NoAnswer::Disabled(contact.homedir.join("config")))
}

/// Returns the UDP address of the server: as given, or according to the config of the homedir.
///
/// # Errors
///
/// The config cannot be used, or has no port.
pub(super) fn server(
    arguments: &Arguments,
    environment: &Environment,
    given: Option<&HostPort>,
) -> Result<HostPort, NoAnswer> {
    if let Some(server) = given {
        return Ok(server.clone());
    }
    let contact = contact(arguments, environment)?;
    HostPort::of(&contact).ok_or(NoAnswer::NoPort(contact.homedir))
}

fn contact(arguments: &Arguments, environment: &Environment) -> Result<ServerContact, NoAnswer> {
    let homedir = match &arguments.homedir {
        Some(path) => {
            let text = path.to_str();
            Some(text.ok_or_else(|| NoAnswer::Config(format!("the path {} is not UTF-8", path.display())))?)
        }
        None => None,
    };
    settings::contact(homedir, environment).map_err(|error| match error {
        ContactError::NoHomedir(path) => NoAnswer::NoHomedir(path),
        ContactError::Config(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            NoAnswer::Config(lines.join("; "))
        }
    })
}
