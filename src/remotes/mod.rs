//! Other Pyzor servers, as the homedir of a client names them: the files `config`, `servers` and `accounts`.

mod address_list;
mod config;
mod connected_socket;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
mod outage_lines;
mod own_address;
mod random;
mod resolve;
mod trial_pause;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::address_list::AddressList;
pub(crate) use self::connected_socket::{ConnectedSocket, is_congestion, socket_reason};
pub(crate) use self::error::DirectoryError;
pub(crate) use self::load::{files, load};
pub(crate) use self::outage_lines::OutageLines;
pub(crate) use self::own_address::{has_route, is_own};
pub(crate) use self::random::{LOWEST_THREAD, RandomNumbers};
pub(crate) use self::resolve::{Addresses, LookUp, LookUpResult};
pub(crate) use self::trial_pause::{STEADY, TrialPause};
use pyzor_home::loggable::loggable_name;
use pyzor_wire::request_writer::Signer;

/// A server that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteServer {
    /// The name or the address, without brackets.
    pub(crate) host: String,
    /// The UDP port, from 1.
    pub(crate) port: u16,
    /// The account, or the anonymous user.
    pub(crate) signer: Signer,
}

impl fmt::Display for RemoteServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl RemoteServer {
    /// Returns the server and the account, for messages.
    pub(crate) fn describe(&self) -> String {
        match self.signer.is_anonymous() {
            true => format!("{self} (anonymous)"),
            false => format!("{self} (as {})", loggable_name(self.signer.user())),
        }
    }
}

/// The homedir of a client, and how its file names are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectorySource {
    /// The directory, absolute.
    pub(crate) path: PathBuf,
    /// The home directory that `~` stands for in names of files.
    pub(crate) home: Option<PathBuf>,
}

/// The servers that the homedir of a client names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteDirectory {
    /// The servers, in the order of the file. At least one, and none twice.
    pub(crate) servers: Vec<RemoteServer>,
    /// The longest wait for a reply.
    pub(crate) timeout: Duration,
}

impl RemoteDirectory {
    /// Returns all servers and accounts, for messages.
    pub(crate) fn describe(&self) -> String {
        self.servers.iter().map(RemoteServer::describe).collect::<Vec<_>>().join(", ")
    }
}

/// A directory that was loaded.
#[derive(Clone, Debug)]
pub(crate) struct LoadedDirectory {
    pub(crate) directory: RemoteDirectory,
    /// Warnings for the operator, one line each.
    pub(crate) warnings: Vec<String>,
    /// The lines of the servers file that are not understood, one message each.
    bad_servers: Vec<String>,
    /// The lines of the accounts file that are not understood, one message each.
    bad_accounts: Vec<String>,
}

impl LoadedDirectory {
    /// Returns why this directory must not replace one in force: a mistake in a line would remove a server with all that
    /// waits for it, or make its requests anonymous.
    pub(crate) fn refusal(&self, in_force: &RemoteDirectory) -> Option<String> {
        if !self.bad_servers.is_empty() {
            return Some(self.bad_servers.join("; "));
        }
        // One that is not in force may have an account in the line.
        let may_lose_account = |new: &&RemoteServer| {
            let is_it = |old: &&RemoteServer| (&old.host, old.port) == (&new.host, new.port);
            let was_anonymous = |old: &RemoteServer| old.signer.is_anonymous();
            new.signer.is_anonymous() && !in_force.servers.iter().find(is_it).is_some_and(was_anonymous)
        };
        let server = self.directory.servers.iter().find(may_lose_account)?;
        let bad = (!self.bad_accounts.is_empty()).then(|| self.bad_accounts.join("; "))?;
        Some(format!("{bad}; requests to {server} would be anonymous"))
    }
}
