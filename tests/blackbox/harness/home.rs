//! A homedir, and how a server is started on it.

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

/// Where a server lives: a homedir in a temporary directory, and how servers are to be started on it.
///
/// [`start`](Self::start) starts a server on a port that is free, and waits until it answers. The commands of
/// [`command`](Self::command), [`detached`](Self::detached) and [`under`](Self::under) start it on the port of the
/// homedir, as an operator would.
///
/// Clones share the directory and the port. With the last of them go the directory and all processes that were
/// started here.
#[derive(Clone)]
pub(crate) struct Home {
    pub(super) parent: Arc<Directory>,
    pub(super) program: PathBuf,
    address: &'static str,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    user: Option<u32>,
    /// Whether the command line leaves it to the config which user the server becomes.
    config_names_user: bool,
}

impl Home {
    /// An empty homedir but for a config that asks for both logs.
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

    /// A homedir where every client may do everything.
    pub(crate) fn open() -> Self {
        Self::new().access("all : anonymous : allow\n")
    }

    /// Lets servers listen on another port than those of the homedir that this is a clone of.
    pub(crate) fn on_another_port(mut self) -> Self {
        self.port = free_port();
        self
    }

    /// The temporary directory in which the homedir lies.
    pub(crate) fn parent(&self) -> PathBuf {
        self.parent.path().to_path_buf()
    }

    /// The homedir.
    pub(crate) fn directory(&self) -> PathBuf {
        self.parent.path().join("home")
    }

    /// A file of the homedir.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory().join(name)
    }

    /// The port that the commands here tell servers to listen on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Writes a file of the homedir.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.rewrite(name, content);
        self
    }

    /// Writes a file of the homedir that a server may be using.
    pub(crate) fn rewrite(&self, name: &str, content: impl AsRef<[u8]>) {
        // A reload that is still under way must not find half of it.
        let (path, new) = (self.path(name), self.path(format!("{name}.new")));
        fs::write(&new, content).unwrap();
        // As an operator leaves them: the accounts' keys are for no other user.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(self.directory()).unwrap();
        chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Sets the settings of the `[server]` section, one a line, beside the two log files.
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

    /// Adds to the command line.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets an environment variable for the server. Its time zone is UTC unless set here.
    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Lets the server listen on another address than 127.0.0.1.
    pub(crate) fn address(mut self, address: &'static str) -> Self {
        self.address = address;
        self
    }

    /// Starts another server here than the one under test.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self.config_names_user = true;
        self
    }

    /// Gives the homedir to the user `nobody` and lets the server run as that user, when the tests run
    /// as root: nothing is unreadable for root.
    pub(crate) fn unprivileged(mut self) -> Self {
        if Uid::effective().is_root() {
            let nobody = 65534;
            self.user = Some(nobody);
            let mut paths = vec![self.parent(), self.directory()];
            paths.extend(fs::read_dir(self.directory()).unwrap().map(|entry| entry.unwrap().path()));
            for path in paths {
                chown(path, Some(nobody), Some(nobody)).unwrap();
            }
            // The program itself may lie where only root may look.
            let copy = self.parent.path().join("pyzord");
            if is_ours() {
                fs::copy(&self.program, &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
                self.program = copy;
            }
        }
        self
    }

    /// Leaves it to the config which user the server becomes. Without this a server that the tests start as root
    /// is told to stay root, so that it does not warn of that.
    pub(crate) fn user_from_config(mut self) -> Self {
        self.config_names_user = true;
        self
    }

    /// Whether a server has to be told to stay root, so that it does not warn of that.
    pub(crate) fn tells_to_stay_root(&self) -> bool {
        is_ours() && self.user.is_none() && !self.config_names_user && Uid::effective().is_root()
    }

    /// A file of the homedir as text; empty when there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The operator log, and the usage log, so far.
    pub(crate) fn log(&self) -> String {
        self.read("pyzord.log")
    }

    /// What servers here have written to their standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(self.parent.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything that a server here has said: operator log, usage log, standard output and error.
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

    /// The default database here. Its file is locked while a server runs on it.
    pub(crate) fn database(&self) -> Database {
        Database::new(self.path("pyzord.db"), Arc::clone(&self.parent))
    }

    /// Starts a server and waits until it answers; panics when it does not.
    pub(crate) fn start(&self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(status) => panic!("no server: {status}\n{}", self.everything_said()),
        }
    }

    /// Starts a server and waits until it answers, or has ended.
    pub(crate) fn try_start(&self) -> Result<Server, ExitStatus> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let said = self.stderr().len();
            let port = free_port_at(self.address);
            match Server::attend(self.spawn(port), self.address, port, self.clone()) {
                // Another process was quicker to take the port.
                Err(_) if attempts < 3 && self.stderr()[said..].contains("ddress already in use") => {}
                started => return started,
            }
        }
    }

    fn spawn(&self, port: u16) -> Child {
        // setpriv replaces itself by the server, which then dies with the thread of the test, whatever happens to
        // that.
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

    /// The file in which the output of servers here is kept.
    pub(super) fn output(&self, name: &str) -> Stdio {
        let path = self.parent.path().join(name);
        Stdio::from(fs::OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    /// Adds what a server needs to be told: the homedir, where it listens, and what this homedir has besides.
    pub(super) fn add_arguments(&self, command: &mut Command, port: u16) {
        command.arg("--homedir").arg(self.directory());
        command.args(["-a", self.address, "-p", &port.to_string()]).args(&self.arguments);
        if self.tells_to_stay_root() {
            command.args(["--user", "root"]);
        }
    }
}
