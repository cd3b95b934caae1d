//! The servers that are compared, with their databases.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::Measurement;
use crate::harness::{Home, MariaDb, Redis, Server, free_port, interop};
use crate::load::Load;
use crate::process::{Memory, cpu_seconds, family, memory, pinned, processors};

/// The arguments for signed requests.
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

/// The concurrency of the Python server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One process, one thread.
    One,
    /// Two processes, the fastest mode for checks. It loses some of several concurrent reports of one digest.
    PreFork,
    /// Threads with a connection each, the fastest mode for reports with MySQL.
    Threads,
}

/// A running server.
pub(crate) struct Subject {
    kind: Kind,
    engine: &'static str,
    mode: Mode,
    digests: u32,
    with_usage_log: bool,
    runs: Runs,
    database: Database,
}

enum Runs {
    Echo(Child, u16),
    Server(Server),
}

#[derive(Clone)]
enum Database {
    None,
    Redis(Rc<RefCell<Redis>>),
    MariaDb(Rc<RefCell<MariaDb>>),
}

impl Drop for Runs {
    fn drop(&mut self) {
        if let Self::Echo(child, _) = self {
            // It has no state that a kill could lose.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts all servers and reports their digests once.
pub(crate) fn all() -> Vec<Subject> {
    const FEW: u32 = 100_000;
    const MANY: u32 = 1_000_000;
    let ours = |engine, digests, with_usage_log| {
        Subject::new(Kind::Ours, engine, Mode::One, digests, with_usage_log, Database::start(engine))
    };
    let python = |engine, mode, database| Subject::new(Kind::Python, engine, mode, FEW, false, database);
    // The two modes of the Python server share a database, so the digests are reported only once.
    let mysql = Database::start("mysql");
    let subjects = vec![
        Subject::echo(FEW),
        Subject::echo(MANY),
        ours("gdbm", FEW, false),
        ours("gdbm", FEW, true),
        ours("gdbm", MANY, false),
        ours("redis", FEW, false),
        ours("mysql", FEW, false),
        python("gdbm", Mode::One, Database::None),
        python("redis", Mode::PreFork, Database::start("redis")),
        python("mysql", Mode::PreFork, mysql.clone()),
        python("mysql", Mode::Threads, mysql),
    ];
    for subject in subjects.iter().filter(|subject| !subject.is_echo() && subject.mode != Mode::Threads) {
        eprintln!("reporting {} digests to {}", subject.digests, subject.name());
        Load::preload(subject);
    }
    subjects
}

/// Waits until all servers are idle: databases write to their disks long after they have answered.
pub(crate) fn settle(subjects: &[Subject]) {
    const STEP: Duration = Duration::from_millis(100);
    const PATIENCE: u32 = 50;
    let all: Vec<u32> =
        subjects.iter().flat_map(|subject| [subject.pids(), subject.database_pids()].concat()).collect();
    for _ in 0..PATIENCE {
        let before = cpu_seconds(&all);
        thread::sleep(STEP);
        if cpu_seconds(&all) - before < 0.1 * STEP.as_secs_f64() + 0.01 {
            return;
        }
    }
}

/// A homedir whose access file allows everything to the accounts used here, with the default logs.
pub(crate) fn home(settings: &str) -> Home {
    Home::new()
        .address("0.0.0.0")
        .file("config", format!("[server]\nLogFile = pyzord.log\n{settings}"))
        .access("check report ping pong info whitelist : anonymous bob : allow\n")
        .passwd(format!("bob : {KEY}\n"))
}

impl Database {
    /// Starts the database server that this engine needs.
    fn start(engine: &str) -> Self {
        pinned(&processors().others, || match engine {
            "redis" => {
                // Redis's default settings: changes are not written to the disk one by one.
                let port = free_port();
                let options = format!("--port {port} --appendonly no --save 3600 1 300 100 60 10000");
                Self::Redis(Rc::new(Redis::at(port, &options, &[]).into()))
            }
            "mysql" => {
                // MariaDB's default settings: each change is on the disk before it is acknowledged.
                let mariadb = MariaDb::with(
                    "--innodb-buffer-pool-size=128M --innodb-log-file-size=96M --innodb-flush-method=O_DIRECT",
                );
                mariadb.sql(&format!("USE pyzor; CREATE TABLE digests ({COLUMNS})"));
                Self::MariaDb(Rc::new(mariadb.into()))
            }
            _ => Self::None,
        })
    }
}

impl Subject {
    fn echo(digests: u32) -> Self {
        let mut echo = Command::new(crate::harness::generator());
        echo.args(["echo", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = pinned(&processors().server, || echo.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        let runs = Runs::Echo(child, port);
        Self {
            kind: Kind::Echo,
            engine: "",
            mode: Mode::One,
            digests,
            with_usage_log: false,
            runs,
            database: Database::None,
        }
    }

    fn new(
        kind: Kind,
        engine: &'static str,
        mode: Mode,
        digests: u32,
        with_usage_log: bool,
        database: Database,
    ) -> Self {
        let mut settings = match &database {
            Database::None => String::new(),
            Database::Redis(redis) => {
                format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.borrow().port())
            }
            // Our server uses the port; the Python server finds the socket by an environment variable.
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
        settings.push_str(match mode {
            Mode::One => "",
            Mode::PreFork => "PreFork = 2\n",
            Mode::Threads => "Threads = True\nMaxThreads = 8\nDBConnections = 8\n",
        });
        let mut home = home(&settings);
        if kind == Kind::Python {
            home = home.program(interop("pyzord"));
            if let Database::MariaDb(mariadb) = &database {
                home = home.environment("MYSQL_UNIX_PORT", mariadb.borrow().socket().display().to_string());
            }
        }
        // Because of Python's global lock, threads are faster on one processor than on two.
        let place = if mode == Mode::PreFork { &processors().both } else { &processors().server };
        let server = pinned(place, || home.start());
        Self { kind, engine, mode, digests, with_usage_log, runs: Runs::Server(server), database }
    }

    /// The name in the tables.
    pub(crate) fn name(&self) -> String {
        let million = if self.has_million() { ", a million" } else { "" };
        match self.kind {
            Kind::Echo => format!("echo{million}"),
            Kind::Ours if self.with_usage_log => "gdbm, usage log".to_owned(),
            Kind::Ours => format!("{}{million}", self.engine),
            Kind::Python => {
                let mode = match self.mode {
                    Mode::One => "",
                    Mode::PreFork => ", pre-fork",
                    Mode::Threads => ", threads",
                };
                format!("Python, {}{mode}", self.engine)
            }
        }
    }

    /// Whether the server takes part in a measurement.
    pub(crate) fn is_asked(&self, measurement: &Measurement) -> bool {
        if self.with_usage_log {
            return measurement.everywhere && measurement.name.contains("check, found");
        }
        if self.mode == Mode::Threads && !measurement.arguments.concat().contains("report") {
            return false;
        }
        let is_near = self.kind == Kind::Echo || (self.kind == Kind::Ours && self.engine == "gdbm");
        self.has_million() == measurement.million && (measurement.everywhere || is_near)
    }

    /// The window: larger if requests take a round trip to a database server. Not for the Python server, whose socket
    /// cannot buffer 256 requests; dropped ones would occupy the window until they time out.
    pub(crate) fn window(&self) -> u32 {
        let is_remote = self.kind == Kind::Ours && !matches!(self.database, Database::None);
        if is_remote { 256 } else { 64 }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn engine(&self) -> &'static str {
        self.engine
    }

    pub(crate) fn is_echo(&self) -> bool {
        self.kind == Kind::Echo
    }

    /// Whether the server represents its kind and engine in measurements that are made once for each.
    pub(crate) fn is_first(&self) -> bool {
        !self.has_million() && !self.with_usage_log && self.mode != Mode::Threads
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

    /// The processes of the server.
    pub(crate) fn pids(&self) -> Vec<u32> {
        family(self.pid())
    }

    /// The processes of its database.
    pub(crate) fn database_pids(&self) -> Vec<u32> {
        match &self.database {
            Database::None => Vec::new(),
            // Redis forks a child to write its snapshot.
            Database::Redis(redis) => family(redis.borrow_mut().service().pid()),
            Database::MariaDb(mariadb) => vec![mariadb.borrow_mut().service().pid()],
        }
    }

    /// The database file of GNU dbm.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match &self.runs {
            Runs::Server(server) if self.engine == "gdbm" => Some(server.home().path("pyzord.db")),
            _ => None,
        }
    }

    /// The memory of the server now.
    pub(crate) fn memory(&self) -> Memory {
        memory(&self.pids(), self.file().as_deref())
    }
}
