//! A homedir, and how a server is started on it.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::unistd::Uid;
use tempfile::TempDir;

use super::{Database, Server, ours};

/// Where a server lives: a homedir in a temporary folder, and how the server is to be started on it.
///
/// Clones share the folder, which goes with the last of them.
#[derive(Clone)]
pub(crate) struct Home {
    folder: Arc<TempDir>,
    program: PathBuf,
    address: &'static str,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    user: Option<u32>,
    /// Whether nothing is said on the command line about which user the server is to become.
    settles_user: bool,
}

impl Home {
    /// An empty homedir but for a config that asks for both logs.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pyzord-test-").tempdir().unwrap();
        let program = env::var_os("PYZORD").unwrap_or_else(|| env!("CARGO_BIN_EXE_pyzord").into());
        let home = Self {
            folder: Arc::new(folder),
            program: fs::canonicalize(program).unwrap(),
            address: "127.0.0.1",
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            settles_user: false,
        };
        fs::create_dir(home.path()).unwrap();
        home.config("")
    }

    /// A homedir where everybody may do everything.
    pub(crate) fn open() -> Self {
        Self::new().access("all : anonymous : allow\n")
    }

    /// The homedir.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Writes a file of the homedir.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.rewrite(name, content);
        self
    }

    /// Writes a file of the homedir that a server may be using.
    pub(crate) fn rewrite(&self, name: &str, content: impl AsRef<[u8]>) {
        // A reload that is still under way must not find half of it.
        let (path, new) = (self.path().join(name), self.path().join(format!("{name}.new")));
        fs::write(&new, content).unwrap();
        // As an operator leaves them: of the accounts' keys nobody else may know.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(self.path()).unwrap();
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
        self.settles_user = true;
        self
    }

    /// Gives the homedir to the user `nobody` and lets the server run as that user, when the tests run
    /// as root: nothing is unreadable for root.
    pub(crate) fn unprivileged(mut self) -> Self {
        if Uid::effective().is_root() {
            let nobody = 65534;
            self.user = Some(nobody);
            let mut paths = vec![self.folder.path().to_path_buf(), self.path()];
            paths.extend(fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()));
            for path in paths {
                chown(path, Some(nobody), Some(nobody)).unwrap();
            }
            // The program itself may lie where only root may look.
            let copy = self.folder.path().join("pyzord");
            if ours() {
                fs::copy(&self.program, &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
                self.program = copy;
            }
        }
        self
    }

    /// Leaves it to the config which user the server becomes. Without this a server that the tests start as
    /// root is told to stay that, which it would warn of otherwise.
    pub(crate) fn settling_user(mut self) -> Self {
        self.settles_user = true;
        self
    }

    /// Whether a server has to be told to stay root, so that it does not warn of that.
    pub(crate) fn tells_to_stay_root(&self) -> bool {
        ours() && self.user.is_none() && !self.settles_user && Uid::effective().is_root()
    }

    /// A file of the homedir as text; empty when there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The operator log, and the usage log, so far.
    pub(crate) fn log(&self) -> String {
        self.read("pyzord.log")
    }

    /// What servers here have written to their standard error so far.
    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything that a server here has said: operator log, usage log, standard output and error.
    pub(crate) fn everything_said(&self) -> String {
        let stdout = fs::read(self.folder.path().join("stdout")).unwrap_or_default();
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
        Database::new(self.path().join("pyzord.db"), Arc::clone(&self.folder))
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
            let port = free_port(self.address);
            match Server::attend(self.spawn(port), self.address, port, self.clone()) {
                // Somebody else was quicker to take the port.
                Err(_) if attempts < 3 && self.stderr()[said..].contains("ddress already in use") => {}
                started => return started,
            }
        }
    }

    fn spawn(&self, port: u16) -> Child {
        let output = |name: &str| {
            let path = self.folder.path().join(name);
            Stdio::from(fs::OpenOptions::new().create(true).append(true).open(path).unwrap())
        };
        // setpriv replaces itself by the server, which then dies with the thread of the test whatever
        // happens to that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = self.user {
            let user = user.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        command.arg("--").arg(&self.program).arg("--homedir").arg(self.path());
        command.args(["-a", self.address, "-p", &port.to_string()]).args(&self.arguments);
        if self.tells_to_stay_root() {
            command.args(["--user", "root"]);
        }
        command.env("TZ", "UTC").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("setpriv is missing: run tests/setup.sh")
            }
            spawned => spawned.unwrap(),
        }
    }
}

/// A port that is free now. Below the range from which the kernel takes ports for sockets that ask for
/// any, so that nobody gets it by chance before the server does.
fn free_port(address: &str) -> u16 {
    const RANGE: u16 = 6000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Runs of the tests at the same time begin at different places.
        let start = u16::try_from(process::id() * 97 % u32::from(RANGE)).unwrap();
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % RANGE;
        let port = 25_000 + (start + step) % RANGE;
        if UdpSocket::bind((address, port)).is_ok() {
            return port;
        }
    }
}
