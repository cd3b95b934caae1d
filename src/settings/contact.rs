//! The settings by which programs on the same machine reach the server.

use std::path::PathBuf;

use super::Environment;
use super::load::SettingsLoader;
use super::table::OPTIONS;
use pyzor_home::problem::ConfigProblem;

/// The options that a [`ServerContact`] is made of.
const KEYS: [&str; 3] = ["ControlSocket", "ListenAddress", "Port"];

/// The addresses of the server of a homedir, according to the config file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerContact {
    /// The homedir, absolute.
    pub(crate) homedir: PathBuf,
    pub(crate) control_socket: Option<PathBuf>,
    /// The address to listen on, or a host name.
    pub(crate) listen_address: String,
    pub(crate) port: u16,
}

/// The reason why the addresses of a server are not known.
#[derive(Debug)]
pub(crate) enum ContactError {
    /// There is no directory of this name.
    NoHomedir(PathBuf),
    /// The problems of the config file as a whole, and of the options that addresses are made of.
    Config(Vec<ConfigProblem>),
}

/// Reads the addresses of a server from the config file of its homedir: of `homedir`, or of the default one. Other
/// options may have any value, as the server may be running with earlier ones.
///
/// # Errors
///
/// There is no homedir, or the config file or one of the options has a problem.
pub(crate) fn contact(
    homedir: Option<&str>,
    environment: &Environment,
) -> Result<ServerContact, ContactError> {
    let option = OPTIONS.iter().find(|option| option.key == "homedir");
    let given = option.zip(homedir).map(|(option, path)| (option, path.to_owned()));
    let mut loader = SettingsLoader::new(environment, given.into_iter().collect());
    // A directory that must not be looked at may exist: reading the file reports that.
    if let Ok(false) = loader.homedir.try_exists() {
        return Err(ContactError::NoHomedir(loader.homedir));
    }
    loader.read_config();
    let settings = loader.typed();
    let mut problems = loader.take_problems();
    problems.retain(|problem| problem.option.as_deref().is_none_or(|option| KEYS.contains(&option)));
    if !problems.is_empty() {
        return Err(ContactError::Config(problems));
    }
    if !loader.homedir.is_dir() {
        return Err(ContactError::NoHomedir(loader.homedir));
    }
    Ok(ServerContact {
        homedir: loader.homedir,
        control_socket: settings.control_socket,
        listen_address: settings.listen_address,
        port: settings.port,
    })
}
