//! The servers that are compared, each started on what it needs.

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

/// How the Python server serves several requests at once, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    One,
    /// Two processes, the best for checks. Of reports of one digest at once it loses some.
    PreFork,
    /// Threads with a connection each, the best for reports on MySQL.
    Threads,
}

/// One server that runs.
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
    let ours = |engine, digests, with_usage_log| {
        Subject::new(Kind::Ours, engine, Mode::One, digests, with_usage_log, Database::start(engine))
    };
    let python = |engine, mode, database| Subject::new(Kind::Python, engine, mode, FEW, false, database);
    // Two servers on one database: its other mode needs no digests of its own.
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

/// Waits until none of them is at work any more: databases write to their disks long after they have answered.
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

/// A homedir where everybody may do everything, without logs of its own.
pub(crate) fn home(settings: &str) -> Home {
    Home::new()
        .address("0.0.0.0")
        .file("config", format!("[server]\nLogFile = pyzord.log\n{settings}"))
        .access("check report ping pong info whitelist : anonymous bob : allow\n")
        .passwd(format!("bob : {KEY}\n"))
}

impl Database {
    /// One for this engine, if it needs a server.
    fn start(engine: &str) -> Self {
        pinned(&processors().others, || match engine {
            "redis" => {
                // As it comes: nothing is written to the disk at each change.
                let port = free_port();
                let options = format!("--port {port} --appendonly no --save 3600 1 300 100 60 10000");
                Self::Redis(Rc::new(Redis::at(port, &options, &[]).into()))
            }
            "mysql" => {
                // As it comes: each change is on the disk before it is acknowledged.
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
        // Threads of one Python get in each other's way on two processors: it is faster on one.
        let place = if mode == Mode::PreFork { &processors().both } else { &processors().server };
        let server = pinned(place, || home.start());
        Self { kind, engine, mode, digests, with_usage_log, runs: Runs::Server(server), database }
    }

    /// What it is called in the tables.
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

    /// Whether it takes part in a measurement.
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

    /// How many requests are outstanding: more where each has to go further. The Python server's socket has no room
    /// for 256, and what it drops would hold places in the window until it is given up.
    pub(crate) fn window(&self) -> u32 {
        let is_far = self.kind == Kind::Ours && !matches!(self.database, Database::None);
        if is_far { 256 } else { 64 }
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

    /// Whether it stands for its kind and engine where each is asked once.
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

    /// All its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        family(self.pid())
    }

    /// The processes of its database.
    pub(crate) fn database_pids(&self) -> Vec<u32> {
        match &self.database {
            Database::None => Vec::new(),
            // While it writes all to its disk, it has a child.
            Database::Redis(redis) => family(redis.borrow_mut().service().pid()),
            Database::MariaDb(mariadb) => vec![mariadb.borrow_mut().service().pid()],
        }
    }

    /// The file of its database, if it has one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match &self.runs {
            Runs::Server(server) if self.engine == "gdbm" => Some(server.home().path("pyzord.db")),
            _ => None,
        }
    }

    /// What it holds in memory now.
    pub(crate) fn memory(&self) -> Memory {
        memory(&self.pids(), self.file().as_deref())
    }
}
