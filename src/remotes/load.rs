//! Loading: reads the servers, and the account for each, from the homedir of a client.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::{self, ClientConfig};
use super::error::DirectoryError;
use super::{DirectorySource, LoadedDirectory, RemoteDirectory, RemoteServer};
use crate::os::open;
use pyzor_home::accounts::{self, AccountsEntry};
use pyzor_home::loggable::{loggable_name, quoted};
use pyzor_home::servers::{self, ServersEntry};
use pyzor_wire::request_writer::Signer;

/// The permission bits to read and write for users who are neither the owner nor in the group.
const FOR_OTHERS: u32 = 0o006;

/// Loads the homedir of a client. Blocks.
///
/// # Errors
///
/// The directory or one of its files cannot be used, or no line of the servers file names a server.
pub(crate) fn load(source: &DirectorySource) -> Result<LoadedDirectory, DirectoryError> {
    let mut warnings = Vec::new();
    match load_with(source, &mut warnings) {
        Ok(loaded) => Ok(LoadedDirectory { warnings, ..loaded }),
        Err(error) => Err(DirectoryError { warnings, ..error }),
    }
}

/// Returns the files that [`load`] reads, as far as the config file can be read. They need not exist.
pub(crate) fn files(source: &DirectorySource) -> Vec<PathBuf> {
    let mut files = vec![source.path.join(config::FILE)];
    if let Ok(config) = ClientConfig::load(source, &mut Vec::new()) {
        files.push(config.servers);
        files.extend(config.accounts);
    }
    files
}

fn load_with(
    source: &DirectorySource,
    warnings: &mut Vec<String>,
) -> Result<LoadedDirectory, DirectoryError> {
    check_directory(&source.path)?;
    let config = ClientConfig::load(source, warnings)?;
    let path = &config.servers;
    let text = open::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DirectoryError::of(
            &error,
            format!(
                "the servers file {} does not exist: write it, with a line 'host:port' for each server",
                path.display()
            ),
        ),
        _ => DirectoryError::unreadable(path, &error),
    })?;
    let before = warnings.len();
    let shown = path.display().to_string();
    let servers = servers::parse(&text.text, &shown, warnings);
    let bad_servers = servers::not_understood(&text.text, &shown);
    if servers.is_empty() {
        let why = warnings.get(before).map(|first| format!("; {first}")).unwrap_or_default();
        return Err(DirectoryError::lasting(vec![format!(
            "{} names no server: write a line 'host:port' for each server{why}",
            path.display()
        )]));
    }
    let (accounts, bad_accounts) = load_accounts(&config, warnings)?;
    let name = config.accounts.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let servers = with_accounts(servers, &accounts, &name, warnings);
    let directory = RemoteDirectory { servers, timeout: config.timeout };
    Ok(LoadedDirectory { directory, warnings: Vec::new(), bad_servers, bad_accounts })
}

fn check_directory(path: &Path) -> Result<(), DirectoryError> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(DirectoryError::lasting(vec![format!(
            "{shown} is not a directory: name the homedir of a client, with its file 'servers'"
        )])),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DirectoryError::of(
            &error,
            format!(
                "the directory {shown} does not exist: name the homedir of a client, with its file 'servers'"
            ),
        )),
        Err(error) => Err(DirectoryError::unreadable(path, &error)),
    }
}

/// Reads the accounts file, and returns the lines that are not understood besides. Without one all requests are anonymous, which needs a warning only if the config names the
/// file. A symbolic link shows that there should be a file.
fn load_accounts(
    config: &ClientConfig,
    warnings: &mut Vec<String>,
) -> Result<(Vec<AccountsEntry>, Vec<String>), DirectoryError> {
    let nothing = Ok((Vec::new(), Vec::new()));
    let Some(path) = config.accounts.as_deref() else { return nothing };
    let shown = path.display().to_string();
    let content = match open::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(DirectoryError::dangling(path, &error));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if config.accounts_are_named {
                warnings
                    .push(format!("the accounts file {shown} does not exist: all requests are anonymous"));
            }
            return nothing;
        }
        Err(error) => return Err(DirectoryError::unreadable(path, &error)),
    };
    let accounts = accounts::parse(&content.text, &shown, warnings);
    if content.mode & FOR_OTHERS != 0 {
        warnings.push(format!(
            "every user of this machine can read or change the keys in {shown}: chmod o= {shown}"
        ));
    }
    Ok((accounts, accounts::not_understood(&content.text, &shown)))
}

/// Finds the account of each server, by the text of host and port. Warns of accounts that are not used.
pub(super) fn with_accounts(
    servers: Vec<ServersEntry>,
    accounts: &[AccountsEntry],
    name: &str,
    warnings: &mut Vec<String>,
) -> Vec<RemoteServer> {
    for account in accounts {
        if !servers.iter().any(|server| server.address == account.address) {
            warnings.push(format!(
                "{name}:{}: the account {} is not used, because the servers file does not name {}: write host and port as \
                 in that file",
                account.line,
                quoted(account.signer.user()),
                loggable_name(&account.address.to_string())
            ));
        }
    }
    let signer = |server: &ServersEntry| {
        let account = accounts.iter().find(|account| account.address == server.address);
        account.map_or_else(Signer::anonymous, |account| account.signer.clone())
    };
    servers
        .into_iter()
        .map(|server| RemoteServer {
            signer: signer(&server),
            host: server.address.host,
            port: server.address.port,
        })
        .collect()
}

#[cfg(test)]
mod tests;
