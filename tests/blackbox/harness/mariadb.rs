//! Private MariaDB servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Service, free_tcp_port, run};

/// A MariaDB that writes each change to its disk before it acknowledges it, with a database `pyzor` that
/// belongs to the user `pyzor` with the password `secret`.
pub(crate) struct MariaDb {
    service: Service,
    port: u16,
}

impl MariaDb {
    /// One that runs.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// One with further options.
    pub(crate) fn with(options: &str) -> Self {
        let mut service = Service::new("/usr/sbin/mariadbd");
        let folder = service.folder().display().to_string();
        let port = free_tcp_port();
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.args([
            "--skip-name-resolve",
            "--innodb-log-file-size=8M",
            &format!("--datadir={folder}/data"),
        ]);
        let installed = run(install.arg("--user=root"), b"");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let arguments = format!(
            "--no-defaults --user=root --datadir={folder}/data --socket={folder}/socket --pid-file={folder}/pid \
             --port={port} --bind-address=127.0.0.1 --innodb-log-file-size=8M --innodb-buffer-pool-size=16M \
             --innodb-flush-log-at-trx-commit=1 {options}"
        );
        service.set_arguments(arguments.split_whitespace().map(str::to_owned).collect());
        let mut mariadb = Self { service, port };
        mariadb.restart();
        mariadb.sql(
            "CREATE DATABASE pyzor; CREATE USER pyzor@localhost IDENTIFIED BY 'secret'; \
             GRANT ALL ON pyzor.* TO pyzor@localhost",
        );
        mariadb
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.service.folder().join("socket")
    }

    /// Its process.
    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Starts it, on the data that it has, and waits until it accepts work.
    pub(crate) fn restart(&mut self) {
        let socket = self.socket();
        self.service.start(|| sql(&socket, "SELECT 1").is_ok());
    }

    /// Runs statements in its own client and returns the rows, a line each.
    #[track_caller]
    pub(crate) fn sql(&self, statements: &str) -> String {
        sql(&self.socket(), statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// The client itself.
    pub(crate) fn client(&self) -> Command {
        client(&self.socket())
    }
}

fn client(socket: &Path) -> Command {
    let mut client = Command::new("mariadb");
    client.args([
        "--no-defaults",
        "-u",
        "root",
        "--batch",
        "--skip-column-names",
        "--unbuffered",
        "--socket",
    ]);
    client.arg(socket);
    client
}

fn sql(socket: &Path, statements: &str) -> Result<String, String> {
    let output = run(&mut client(socket), statements.as_bytes());
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
