//! The Python client.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{Account, Server, interop, run};

/// The Python client, with its own homedir.
pub(crate) struct Client {
    homedir: TempDir,
}

impl Client {
    /// An anonymous client of this server.
    pub(crate) fn new(server: &Server) -> Self {
        let homedir = tempfile::tempdir().unwrap();
        fs::write(homedir.path().join("servers"), format!("127.0.0.1:{}\n", server.port())).unwrap();
        Self { homedir }
    }

    /// A client of this server that signs requests with this account.
    pub(crate) fn with_account(server: &Server, account: &Account) -> Self {
        let client = Self::new(server);
        let salt = "a".repeat(40);
        let line = format!("127.0.0.1 : {} : {} : {salt},{}\n", server.port(), account.name(), account.key());
        fs::write(client.homedir.path().join("accounts"), line).unwrap();
        client
    }

    /// Runs a command of the client with these digests as its input, one a line.
    pub(crate) fn run(&self, command: &str, digests: &[&str]) -> Output {
        let mut client = Command::new(interop("pyzor"));
        client.arg("--homedir").arg(self.homedir.path()).args(["-s", "digests", command]);
        run(client.env("TZ", "UTC"), (digests.join("\n") + "\n").as_bytes())
    }

    /// Runs a Python program that can import the client's modules. Its arguments are the client's homedir and the
    /// server's port.
    pub(crate) fn script(&self, server: &Server, program: &str) -> Output {
        let mut python = Command::new(interop("python"));
        python.args(["-c", program]).arg(self.homedir.path()).arg(server.port().to_string());
        run(&mut python, b"")
    }
}
