//! Private MariaDB servers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;

use nix::unistd::Uid;

use super::Service;
use crate::harness::{PATIENCE, free_port, run, stores_sync};

/// A MariaDB server with a database `pyzor`, which belongs to the user `pyzor` with the password `secret`. It writes
/// each change to its files before it acknowledges it, so that a kill loses nothing. It calls fsync only if
/// [`stores_sync`] is true or an option demands it.
pub(crate) struct MariaDb {
    service: Service,
    port: u16,
}

impl MariaDb {
    /// Starts a server.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Starts a server with further options, separated by blanks.
    pub(crate) fn with(options: &str) -> Self {
        let mut service = Service::new("/usr/sbin/mariadbd");
        let directory = service.directory().display().to_string();
        assert!(
            directory.len() < 90,
            "the path {directory} is too long for a socket: set TMPDIR to a shorter one"
        );
        let port = free_port();
        // Each server needs its own directory for temporary tables, because it removes those of others at startup.
        fs::create_dir(service.directory().join("tmp")).unwrap();
        // A server that is started as root refuses to run without this.
        let user = if Uid::effective().is_root() { "--user=root" } else { "" };
        let method = if stores_sync() { "O_DIRECT" } else { "nosync" };
        let data = format!(
            "--no-defaults --datadir={directory}/data --tmpdir={directory}/tmp --innodb-log-file-size=8M \
             --innodb-flush-method={method} {user}"
        );
        copy(&template(), &service.directory().join("data"));
        let arguments = format!(
            "{data} --socket={directory}/socket --pid-file={directory}/pid --port={port} --bind-address=127.0.0.1 \
             --innodb-buffer-pool-size=16M --innodb-flush-log-at-trx-commit=1 --default-time-zone=+00:00 {options}"
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

    /// Returns a server that is shared by tests that only need their own database in it. It is killed when the last
    /// test drops it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
        // If a test could not start it, the value is still usable.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let mariadb = Arc::new(Self::with("--innodb-flush-log-at-trx-commit=0"));
            *shared = Arc::downgrade(&mariadb);
            mariadb
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.service.directory().join("socket")
    }

    pub(crate) fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Starts the server on its data, and waits until it accepts statements.
    pub(crate) fn restart(&mut self) {
        let socket = self.socket();
        self.service.start(|| sql(&socket, "SELECT 1").is_ok());
    }

    /// Runs statements as root, and returns the rows, a line each.
    #[track_caller]
    pub(crate) fn sql(&self, statements: &str) -> String {
        sql(&self.socket(), statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// Runs statements in a client that stays connected and keeps its locks.
    #[track_caller]
    pub(crate) fn hold(&self, statements: &str) -> Held {
        let mut client = client(&self.socket());
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = client.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        // The client exits when its input is closed.
        let mut held = Held(child);
        let (sender, done) = mpsc::channel();
        thread::spawn(move || {
            let is_done = output.lines().map_while(Result::ok).any(|line| line == "held");
            // The receiver may be gone.
            let _ = sender.send(is_done);
        });
        writeln!(held.0.stdin.as_mut().unwrap(), "{statements}; SELECT 'held';").unwrap();
        assert_eq!(done.recv_timeout(PATIENCE), Ok(true), "{statements}");
        held
    }
}

/// Returns a freshly installed data directory. Because the installation takes a second or two, it is done once and kept
/// in the target directory.
fn template() -> PathBuf {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let version = run(Command::new("/usr/sbin/mariadbd").arg("--version"), b"").stdout;
    let version: String =
        String::from_utf8_lossy(&version).chars().filter(char::is_ascii_alphanumeric).collect();
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = all.join(format!("mariadb-{}-{version}", Uid::effective()));
    if template.exists() {
        return template;
    }
    // A directory with the final name is complete, because another process may install at the same time.
    let fresh = tempfile::Builder::new().prefix("mariadb-new-").tempdir_in(all).unwrap();
    let data = fresh.path().join("data");
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--innodb-log-file-size=8M", "--innodb-flush-method=nosync"]);
    install.arg(format!("--datadir={}", data.display()));
    install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
    // A server that is started as root refuses to run without this.
    install.args(Uid::effective().is_root().then_some("--user=root"));
    let installed = run(&mut install, b"");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    if let Err(error) = fs::rename(&data, &template) {
        assert!(template.exists(), "{}: {error}", template.display());
    }
    template
}

fn copy(from: &Path, to: &Path) {
    let copied = run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to), b"");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

/// A client that stays connected until it is dropped, which rolls its transaction back.
pub(crate) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // The client may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(socket: &Path) -> Command {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-u", "root", "--batch", "--skip-column-names", "--unbuffered"]);
    client.arg("--socket").arg(socket);
    client
}

fn sql(socket: &Path, statements: &str) -> Result<String, String> {
    let output = run(&mut client(socket), statements.as_bytes());
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
