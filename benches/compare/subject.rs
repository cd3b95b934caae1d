//! The servers that are compared, each started on what it needs.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Home, MariaDb, Redis, Server, free_tcp_port, interop};
use crate::load::Load;
use crate::process::{memory, pinned};
use crate::{BOTH, Measurement, OTHERS, SERVER};

/// How a request is signed.
pub(crate) const SIGNED: &[&str] = &["--user", "bob", "--key", KEY];
const KEY: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
const COLUMNS: &str = "digest char(40) default NULL, r_count int(11) default NULL, wl_count int(11) default NULL, \
    r_entered datetime default NULL, wl_entered datetime default NULL, r_updated datetime default NULL, \
    wl_updated datetime default NULL, PRIMARY KEY (digest)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Echo,
    Ours,
    Python,
}

/// One server that runs.
pub(crate) struct Subject {
    kind: Kind,
    engine: &'static str,
    digests: u32,
    with_usage_log: bool,
    runs: Runs,
    database: Database,
}

enum Runs {
    Echo(Child, u16),
    Server(Server),
}

enum Database {
    None,
    Redis(RefCell<Redis>),
    MariaDb(RefCell<MariaDb>),
}

impl Drop for Runs {
    fn drop(&mut self) {
        if let Self::Echo(child, _) = self {
            // It has nothing to lose.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All of them, with their digests reported once.
pub(crate) fn all() -> Vec<Subject> {
    const FEW: u32 = 100_000;
    const MANY: u32 = 1_000_000;
    let subjects = vec![
        Subject::echo(FEW),
        Subject::echo(MANY),
        Subject::new(Kind::Ours, "gdbm", FEW, false),
        Subject::new(Kind::Ours, "gdbm", FEW, true),
        Subject::new(Kind::Ours, "gdbm", MANY, false),
        Subject::new(Kind::Ours, "redis", FEW, false),
        Subject::new(Kind::Ours, "mysql", FEW, false),
        Subject::new(Kind::Python, "gdbm", FEW, false),
        Subject::new(Kind::Python, "redis", FEW, false),
        Subject::new(Kind::Python, "mysql", FEW, false),
    ];
    for subject in subjects.iter().filter(|subject| subject.kind != Kind::Echo) {
        eprintln!("reporting {} digests to {}", subject.digests, subject.name());
        Load::preload(subject);
    }
    subjects
}

/// A homedir where everybody may do everything, without logs of its own.
pub(crate) fn home(settings: &str) -> Home {
    Home::new()
        .file("config", format!("[server]\nLogFile = pyzord.log\n{settings}"))
        .access("check report ping pong info whitelist : anonymous bob : allow\n")
        .passwd(format!("bob : {KEY}\n"))
}

impl Subject {
    fn echo(digests: u32) -> Self {
        let mut echo = Command::new(env!("CARGO_BIN_EXE_pyzor-bench"));
        echo.args(["echo", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = pinned(SERVER, || echo.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        let runs = Runs::Echo(child, port);
        Self { kind: Kind::Echo, engine: "", digests, with_usage_log: false, runs, database: Database::None }
    }

    fn new(kind: Kind, engine: &'static str, digests: u32, with_usage_log: bool) -> Self {
        let database = pinned(OTHERS, || match engine {
            "redis" => {
                // As it comes: nothing is written to the disk at each change.
                let port = free_tcp_port();
                let options = format!("--port {port} --appendonly no --save 3600 1 300 100 60 10000");
                Database::Redis(Redis::at(port, &options, &[]).into())
            }
            "mysql" => {
                // As it comes: each change is on the disk before it is acknowledged.
                let mariadb = MariaDb::with("--innodb-buffer-pool-size=128M --innodb-log-file-size=96M");
                mariadb.sql(&format!("USE pyzor; CREATE TABLE digests ({COLUMNS})"));
                Database::MariaDb(mariadb.into())
            }
            _ => Database::None,
        });
        let mut settings = match &database {
            Database::None => String::new(),
            Database::Redis(redis) => {
                format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.borrow().port())
            }
            // The port is for ours, the socket's name in the environment for the Python server.
            Database::MariaDb(_) if kind == Kind::Python => {
                "Engine = mysql\nDigestDB = localhost,pyzor,secret,pyzor,digests\n".to_owned()
            }
            Database::MariaDb(mariadb) => format!(
                "Engine = mysql\nDigestDB = 127.0.0.1:{},pyzor,secret,pyzor,digests\n",
                mariadb.borrow().port()
            ),
        };
        if with_usage_log {
            settings.push_str("UsageLogFile = usage.log\n");
        }
        if kind == Kind::Python && engine != "gdbm" {
            settings.push_str("PreFork = 2\n");
        }
        let mut home = home(&settings);
        let processors = if kind == Kind::Python {
            home = home.program(interop("pyzord"));
            if let Database::MariaDb(mariadb) = &database {
                home = home.environment("MYSQL_UNIX_PORT", mariadb.borrow().socket().display().to_string());
            }
            BOTH
        } else {
            SERVER
        };
        let server = pinned(processors, || home.start());
        Self { kind, engine, digests, with_usage_log, runs: Runs::Server(server), database }
    }

    /// What it is called in the tables.
    pub(crate) fn name(&self) -> String {
        let million = if self.has_million() { ", a million" } else { "" };
        match self.kind {
            Kind::Echo => format!("echo{million}"),
            Kind::Ours if self.with_usage_log => "gdbm, usage log".to_owned(),
            Kind::Ours => format!("{}{million}", self.engine),
            Kind::Python => format!("Python, {}", self.engine),
        }
    }

    /// Whether it takes part in a measurement.
    pub(crate) fn is_asked(&self, measurement: &Measurement) -> bool {
        if self.with_usage_log {
            return measurement.everywhere && measurement.name.contains("check, found");
        }
        let is_near = self.kind == Kind::Echo || (self.kind == Kind::Ours && self.engine == "gdbm");
        self.has_million() == measurement.million && (measurement.everywhere || is_near)
    }

    /// How many requests are outstanding: more where each has to go further.
    pub(crate) fn window(&self) -> u32 {
        if matches!(self.database, Database::None) { 64 } else { 256 }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn engine(&self) -> &'static str {
        self.engine
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.kind == Kind::Ours && !self.with_usage_log
    }

    pub(crate) fn has_million(&self) -> bool {
        self.digests == 1_000_000
    }

    pub(crate) fn digests(&self) -> u32 {
        self.digests
    }

    pub(crate) fn port(&self) -> u16 {
        match &self.runs {
            Runs::Echo(_, port) => *port,
            Runs::Server(server) => server.port(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.runs {
            Runs::Echo(child, _) => child.id(),
            Runs::Server(server) => server.pid(),
        }
    }

    /// The processes of its database.
    pub(crate) fn database_pids(&self) -> Vec<u32> {
        match &self.database {
            Database::None => Vec::new(),
            Database::Redis(redis) => vec![redis.borrow_mut().service().pid()],
            Database::MariaDb(mariadb) => vec![mariadb.borrow_mut().service().pid()],
        }
    }

    /// The file of its database, if it has one.
    pub(crate) fn file(&self) -> PathBuf {
        match &self.runs {
            Runs::Echo(..) => PathBuf::new(),
            Runs::Server(server) => server.home().path().join("pyzord.db"),
        }
    }

    /// Its resident memory in KiB, without the pages of the database's file.
    pub(crate) fn memory(&self) -> u64 {
        memory(self.pid(), &self.file()).0
    }
}
