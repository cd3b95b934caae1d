//! Errors that end a start before the server serves.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::operator_sockets::MetricsListenError;
use crate::access::AccessLoadError;
use crate::logging::LogOpenError;
use crate::os::local_socket::LocalSocketError;
use crate::os::pidfile::PidFileError;
use crate::server::socket::BindError;
use crate::storage::EngineOpenError;

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
    /// Reported as a warning: it does not end a start.
    #[error(transparent)]
    ControlSocket(#[from] LocalSocketError),
    #[error(transparent)]
    Metrics(#[from] MetricsListenError),
    #[error("{0}")]
    User(String),
    /// One line per file that the user named by `User` cannot use.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    /// A signal asked the server to stop; its name.
    #[error("stopped by {0} while starting")]
    Stopped(&'static str),
}

impl StartError {
    /// Returns the messages for the operator, one line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Files(lines) => lines.clone(),
            error => vec![error.to_string()],
        }
    }
}
