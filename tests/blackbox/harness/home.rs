//! Homedirs, and the start of servers on them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::unistd::Uid;

use super::command::program;
use super::directory::Directory;
use super::{Database, Server, free_port, free_port_at, is_ours};

/// A homedir in a temporary directory, and the settings for servers that are started on it.
///
/// [`start`](Self::start) starts a server on a free port, and waits until it answers. The commands of
/// [`command`](Self::command), [`detached`](Self::detached) and [`under`](Self::under) start it on the port of the
/// homedir, as an operator does.
///
/// Clones share the directory and the port. When the last one is dropped, all processes of the homedir are killed and
/// the directory is removed.
#[derive(Clone)]
pub(crate) struct Home {
    pub(super) parent: Arc<Directory>,
    pub(super) program: PathBuf,
    address: &'static str,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    user: Option<u32>,
    /// Whether the server's user is taken from the config, not from the command line.
    config_names_user: bool,
}

impl Home {
    /// A homedir with only a config, which enables both logs.
    pub(crate) fn new() -> Self {
        let home = Self {
            parent: Arc::new(Directory::new()),
            program: program(),
            address: "127.0.0.1",
            port: free_port(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            config_names_user: false,
        };
        fs::create_dir(home.directory()).unwrap();
        home.config("")
    }

    /// A homedir where all clients have all rights.
    pub(crate) fn open() -> Self {
        Self::new().access("all : anonymous : allow\n")
    }

    /// Chooses a new port for this clone of a homedir.
    pub(crate) fn on_another_port(mut self) -> Self {
        self.port = free_port();
        self
    }

    /// Returns the temporary directory that contains the homedir.
    pub(crate) fn parent(&self) -> PathBuf {
        self.parent.path().to_path_buf()
    }

    /// Returns the path of the homedir.
    pub(crate) fn directory(&self) -> PathBuf {
        self.parent.path().join("home")
    }

    /// Returns the path of a file in the homedir.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory().join(name)
    }

    /// Returns the port on which the commands let servers listen.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Writes a file in the homedir.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.rewrite(name, content);
        self
    }

    /// Replaces a file in the homedir that a server may be using.
    pub(crate) fn rewrite(&self, name: &str, content: impl AsRef<[u8]>) {
        // A rename, because a reload in progress must not read half of the file.
        let (path, new) = (self.path(name), self.path(format!("{name}.new")));
        fs::write(&new, content).unwrap();
        // As on a real server: other users must not read the accounts' keys.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(self.directory()).unwrap();
        chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Writes the config: a `[server]` section with both log files and these settings, one a line.
    pub(crate) fn config(self, settings: &str) -> Self {
        let config = format!("[server]\nLogFile = pyzord.log\nUsageLogFile = usage.log\n{settings}");
        self.file("config", config)
    }

    /// Writes the passwd file.
    pub(crate) fn passwd(self, lines: impl AsRef<[u8]>) -> Self {
        self.file("pyzord.passwd", lines)
    }

    /// Writes the access file.
    pub(crate) fn access(self, lines: impl AsRef<[u8]>) -> Self {
        self.file("pyzord.access", lines)
    }

    /// Adds arguments to the command line.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets an environment variable of the server. Its time zone is UTC unless `TZ` is set here.
    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets the address on which the server listens, instead of 127.0.0.1.
    pub(crate) fn address(mut self, address: &'static str) -> Self {
        self.address = address;
        self
    }

    /// Uses another program than the server under test.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self.config_names_user = true;
        self
    }

    /// Gives the homedir to the user `nobody` and runs the server as that user if the tests run as root, because root
    /// can read every file.
    pub(crate) fn unprivileged(mut self) -> Self {
        if Uid::effective().is_root() {
            let nobody = 65534;
            self.user = Some(nobody);
            let mut paths = vec![self.parent(), self.directory()];
            paths.extend(fs::read_dir(self.directory()).unwrap().map(|entry| entry.unwrap().path()));
            for path in paths {
                chown(path, Some(nobody), Some(nobody)).unwrap();
            }
            // The program may be in a directory that only root can access.
            let copy = self.parent.path().join("pyzord");
            if is_ours() {
                fs::copy(&self.program, &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
                self.program = copy;
            }
        }
        self
    }

    /// Takes the server's user from the config. Otherwise a server that is started as root gets `--user root`,
    /// which avoids its warning.
    pub(crate) fn user_from_config(mut self) -> Self {
        self.config_names_user = true;
        self
    }

    /// Whether a server needs `--user root`, which avoids its warning.
    pub(crate) fn tells_to_stay_root(&self) -> bool {
        is_ours() && self.user.is_none() && !self.config_names_user && Uid::effective().is_root()
    }

    /// Reads a file in the homedir as text, or returns an empty text if the file is missing.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads the operator log.
    pub(crate) fn log(&self) -> String {
        self.read("pyzord.log")
    }

    /// Reads what servers of this homedir have written to standard error.
    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(self.parent.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads all output of servers of this homedir: operator log, usage log, standard output and error.
    pub(crate) fn everything_said(&self) -> String {
        let stdout = fs::read(self.parent.path().join("stdout")).unwrap_or_default();
        format!(
            "--- log\n{}--- usage log\n{}--- stdout\n{}--- stderr\n{}",
            self.log(),
            self.read("usage.log"),
            String::from_utf8_lossy(&stdout),
            self.stderr()
        )
    }

    /// Returns the default database. Its file is locked while a server is running.
    pub(crate) fn database(&self) -> Database {
        Database::new(self.path("pyzord.db"), Arc::clone(&self.parent))
    }

    /// Starts a server and waits until it answers; panics if it exits before.
    pub(crate) fn start(&self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(status) => panic!("the server has exited: {status}\n{}", self.everything_said()),
        }
    }

    /// Starts a server and waits until it answers, or returns its exit status.
    pub(crate) fn try_start(&self) -> Result<Server, ExitStatus> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let previous_length = self.stderr().len();
            let port = free_port_at(self.address);
            match Server::attend(self.spawn(port), self.address, port, self.clone()) {
                // Another process has taken the port in the meantime.
                Err(_)
                    if attempts < 3 && self.stderr()[previous_length..].contains("ddress already in use") => {
                }
                started => return started,
            }
        }
    }

    fn spawn(&self, port: u16) -> Child {
        // setpriv executes the server, which is killed when the thread of the test exits for any reason.
        let mut command = self.parent.mark(Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = self.user {
            let user = user.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        command.arg("--").arg(&self.program);
        self.add_arguments(&mut command, port);
        command.env("TZ", "UTC").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(self.output("stdout")).stderr(self.output("stderr"));
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("setpriv is missing: run tests/setup.sh")
            }
            spawned => spawned.unwrap(),
        }
    }

    /// Opens a file for the output of servers.
    pub(super) fn output(&self, name: &str) -> Stdio {
        let path = self.parent.path().join(name);
        Stdio::from(fs::OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    /// Adds the arguments for a server: the homedir, its address and port, and those of this homedir.
    pub(super) fn add_arguments(&self, command: &mut Command, port: u16) {
        command.arg("--homedir").arg(self.directory());
        command.args(["-a", self.address, "-p", &port.to_string()]).args(&self.arguments);
        if self.tells_to_stay_root() {
            command.args(["--user", "root"]);
        }
    }
}
