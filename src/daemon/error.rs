//! Errors that end a start before the server serves.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::directories::problems;
use super::operator_sockets::MetricsListenError;
use crate::access::AccessLoadError;
use crate::forward::origin::OriginError;
use crate::logging::LogOpenError;
use crate::os::activation::PassedSocketError;
use crate::os::local_socket::LocalSocketError;
use crate::os::pidfile::PidFileError;
use crate::os::{notify, open};
use crate::remotes::DirectoryError;
use crate::server::socket::BindError;
use crate::storage::EngineOpenError;

/// The exit code for failures.
pub(super) const EXIT_FAILURE: u8 = 1;
/// The exit code for mistakes in the configuration, under a service manager: `EX_CONFIG` of sysexits(3).
const EXIT_CONFIGURATION: u8 = 78;

/// The reason for the end of a start before the server serves.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("cannot create the homedir {}: {error}", path.display())]
    Homedir { path: PathBuf, error: io::Error },
    #[error("cannot write to {}, the file that --detach names: {error}", path.display())]
    Output { path: PathBuf, error: io::Error },
    #[error("cannot detach from the terminal: {0}")]
    Detach(io::Error),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    Log(#[from] LogOpenError),
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Database(#[from] EngineOpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Access(#[from] AccessLoadError),
    /// The homedir of a client that this option names.
    #[error("{}", problems(option, error).join("\n"))]
    Directory { option: &'static str, error: DirectoryError },
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Passed(#[from] PassedSocketError),
    /// Reported as a warning: it does not end a start.
    #[error(transparent)]
    ControlSocket(#[from] LocalSocketError),
    #[error(transparent)]
    Metrics(#[from] MetricsListenError),
    /// `User` asks for what this process will never be able to do.
    #[error("{0}")]
    User(String),
    /// The user or group was not found, which looks the same while a name service starts, or cannot be assumed.
    #[error("{0}")]
    Identity(String),
    /// The files that the user named by `User` cannot use.
    #[error("{}", lines(.0).join("\n"))]
    Files(Vec<FileFailure>),
    /// A signal asked the server to stop; its name.
    #[error("stopped by {0} while starting")]
    Stopped(&'static str),
}

/// A file that the user named by `User` cannot use.
#[derive(Debug)]
pub(super) struct FileFailure {
    /// The message for the operator, in one line.
    pub(super) line: String,
    /// Whether the failure stays until the operator acts.
    pub(super) is_lasting: bool,
}

fn lines(failures: &[FileFailure]) -> Vec<String> {
    failures.iter().map(|failure| failure.line.clone()).collect()
}

impl StartError {
    /// Returns the messages for the operator, one line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(failures) => lines(failures),
            Self::Directory { option, error } => problems(option, error),
            error => vec![error.to_string()],
        }
    }

    /// Returns the exit code of the process.
    pub(super) fn exit_code(&self) -> u8 {
        if self.is_configuration() { configuration_code() } else { EXIT_FAILURE }
    }

    /// Whether a start fails with this error until the operator changes the configuration, a file that it names, the
    /// permissions of one, or the socket unit. Other errors may pass by themselves.
    fn is_configuration(&self) -> bool {
        match self {
            Self::Homedir { error, .. } | Self::Output { error, .. } => open::is_lasting(error),
            Self::Log(error) => error.is_lasting(),
            Self::PidFile(error) => error.is_lasting(),
            Self::Database(error) => error.is_lasting(),
            Self::Bind(error) => error.is_lasting(),
            Self::Access(error) => error.is_lasting(),
            Self::Directory { error, .. } => error.is_lasting(),
            Self::Origin(error) => error.is_lasting(),
            Self::ControlSocket(error) => error.is_lasting(),
            Self::Metrics(error) => error.is_lasting(),
            Self::Passed(_) | Self::User(_) => true,
            Self::Files(failures) => failures.iter().any(|failure| failure.is_lasting),
            Self::Identity(_) | Self::Detach(_) | Self::System(_) | Self::Stopped(_) => false,
        }
    }
}

/// Returns the exit code for mistakes in the configuration. A service manager that expects messages must not try again.
pub(super) fn configuration_code() -> u8 {
    if notify::is_expected() { EXIT_CONFIGURATION } else { EXIT_FAILURE }
}
