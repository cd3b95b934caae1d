//! What the tests of a server's life need beside the harness: a homedir with a port of its own, where
//! servers are started as an operator would, into the background too, and of which no process is left
//! behind; and callers who keep a ledger.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Home, Reply, eventually};

/// How long anything may take before a test gives up; far beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// By this a process is known to belong to a site.
const MARK: &str = "PYZORD_TEST_SITE";

/// A homedir, a port, and every process that was started here.
pub(crate) struct Site {
    home: Home,
    port: u16,
}

impl Site {
    /// A site where everybody may do everything.
    pub(crate) fn new() -> Self {
        Self::at(Home::open())
    }

    /// A site with this homedir.
    pub(crate) fn at(home: Home) -> Self {
        Self { home, port: free_port() }
    }

    /// The homedir, and what is in it.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The port that servers here are told to listen on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Takes the port, so that servers here cannot have it until the socket is dropped.
    ///
    /// The socket that found it free may still be open for a moment, in a child of another test that has been
    /// forked and has not yet become its program.
    pub(crate) fn take_port(&self) -> UdpSocket {
        eventually("the port", || UdpSocket::bind(("127.0.0.1", self.port)).ok())
    }

    /// The temporary folder in which the homedir lies.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().parent().unwrap().to_path_buf()
    }

    /// A file of the homedir.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The server's program, with nothing but the mark of this site.
    pub(crate) fn bare(&self) -> Command {
        self.mark(Command::new(program()))
    }

    /// A server in the foreground.
    pub(crate) fn command(&self) -> Command {
        self.arguments(self.bare())
    }

    /// A server in the background.
    pub(crate) fn detached(&self) -> Command {
        let mut command = self.command();
        command.args(["--detach", "/dev/null"]);
        command
    }

    /// The same under a line of bash that ends in `exec "$@"` with what is to be tried around it.
    pub(crate) fn under(&self, script: &str, detached: bool) -> Command {
        let mut command = self.mark(Command::new("bash"));
        command.args(["-c", script, "bash"]).arg(program());
        let mut command = self.arguments(command);
        if detached {
            command.args(["--detach", "/dev/null"]);
        }
        command
    }

    /// Marks a command as one of this site.
    pub(crate) fn mark(&self, mut command: Command) -> Command {
        command.env(MARK, self.folder()).env_remove("TZ").stdin(Stdio::null());
        command
    }

    fn arguments(&self, mut command: Command) -> Command {
        command.arg("--homedir").arg(self.home.path());
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.home.tells_to_stay_root() {
            command.args(["--user", "root"]);
        }
        command
    }

    /// Starts a server into the background, which must succeed without a word.
    #[track_caller]
    pub(crate) fn detach(&self) -> Daemon {
        self.detach_with(self.detached())
    }

    /// The same after a kill, which may have cut a bucket off in the middle: the repair then says so.
    #[track_caller]
    pub(crate) fn detach_killed(&self) -> Daemon {
        let finished = finish(self.detached());
        let told = finished.stderr.is_empty() || finished.stderr.contains("the file as it was is kept");
        assert!(finished.code == Some(0) && told, "{finished:#?}{}", self.home.everything_said());
        self.daemon()
    }

    /// The same with a command that makes it say everything.
    #[track_caller]
    pub(crate) fn detach_with_debug(&self, command: Command) -> Daemon {
        assert_eq!(finish(command).code, Some(0), "{}", self.home.everything_said());
        self.daemon()
    }

    /// The same with another command. Two warnings are let pass: of root, where the command says nothing of a
    /// user, and of a store that takes longer than a second to answer, as on a busy machine.
    #[track_caller]
    pub(crate) fn detach_with(&self, command: Command) -> Daemon {
        let finished = finish(command);
        let of_root = "pyzord: warning: running as root, which the server has no need of: set User to one that is \
                       made for it";
        let of_store = "it does not answer";
        let more = |line: &&str| {
            *line != of_root
                && !(line.starts_with("pyzord: warning: waiting for ") && line.ends_with(of_store))
        };
        let stderr: Vec<&str> = finished.stderr.lines().filter(more).collect();
        assert!(
            finished.code == Some(0) && finished.stdout.is_empty() && stderr.is_empty(),
            "{finished:#?}{}",
            self.home.everything_said()
        );
        self.daemon()
    }

    /// The daemon that the pid file names.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Daemon {
        let content = self.home.read("pyzord.pid");
        let pid = content.strip_suffix('\n').and_then(|number| number.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the pid file holds {content:?}"));
        Daemon { pid: Pid::from_raw(pid) }
    }

    /// A caller of whatever listens on the port.
    pub(crate) fn caller(&self) -> Caller {
        Caller::to(self.port)
    }

    /// How often each digest has been reported, according to the database.
    pub(crate) fn stored(&self) -> BTreeMap<String, i64> {
        let record = |(key, value): (Vec<u8>, Vec<u8>)| {
            let value = String::from_utf8(value).unwrap();
            let count = value.split(',').nth(1).unwrap().parse().unwrap();
            (String::from_utf8(key).unwrap(), count)
        };
        self.home.database().read().into_iter().map(record).collect()
    }

    /// All processes of this site that live.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.folder().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let marked = |pid: &Pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        numbers.map(Pid::from_raw).filter(marked).filter(|pid| lives(*pid)).collect()
    }

    /// Waits until no process of this site lives.
    #[track_caller]
    pub(crate) fn expect_nobody(&self) {
        eventually("the end of all processes here", || self.processes().is_empty().then_some(()));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.home.everything_said());
        }
        for pid in self.processes() {
            // It may end by itself right now.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The server under test.
fn program() -> PathBuf {
    let program = std::env::var_os("PYZORD").unwrap_or_else(|| env!("CARGO_BIN_EXE_pyzord").into());
    fs::canonicalize(program).unwrap()
}

/// A port that is free now, of a range that neither the kernel nor the harness gives away.
fn free_port() -> u16 {
    const RANGE: u16 = 5000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = u16::try_from(process::id() * 89 % u32::from(RANGE)).unwrap();
        let port = 19_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % RANGE;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that is nobody's child any more.
#[derive(Clone, Copy)]
pub(crate) struct Daemon {
    pid: Pid,
}

impl Daemon {
    /// Its number.
    pub(crate) fn pid(self) -> Pid {
        self.pid
    }

    /// Its only child.
    #[track_caller]
    pub(crate) fn child(self) -> Self {
        let children = fs::read_to_string(self.proc(&format!("task/{}/children", self.pid))).unwrap();
        Self { pid: Pid::from_raw(children.trim().parse().unwrap()) }
    }

    /// Sends a signal.
    pub(crate) fn signal(self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ended(self) {
        eventually("the daemon's end", || (!lives(self.pid)).then_some(()));
    }

    /// Ends it by TERM.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.ended();
    }

    /// A file of its directory in `/proc`.
    pub(crate) fn proc(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    /// What each of its descriptors leads to.
    pub(crate) fn descriptors(self) -> BTreeMap<u32, String> {
        let entries = fs::read_dir(self.proc("fd")).unwrap().flatten();
        entries
            .filter_map(|entry| {
                let target = fs::read_link(entry.path()).ok()?;
                Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
            })
            .collect()
    }

    /// A field of its line in `/proc`, by the number that proc(5) gives it.
    pub(crate) fn stat(self, field: usize) -> i64 {
        let line = fs::read_to_string(self.proc("stat")).unwrap();
        // The second field is a name, which may have blanks, in parentheses.
        let rest = line.rsplit_once(") ").unwrap().1;
        rest.split(' ').nth(field - 3).unwrap().parse().unwrap()
    }
}

/// Whether a process runs; one that has ended may wait long for somebody to ask how.
fn lives(pid: Pid) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    line.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A child in the foreground, ended when this goes.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts it, with what it says in the files `stdout` and `stderr` of the site's folder.
    pub(crate) fn start(site: &Site, mut command: Command) -> Self {
        let output = |name: &str| {
            let path = site.folder().join(name);
            Stdio::from(fs::OpenOptions::new().create(true).append(true).open(path).unwrap())
        };
        let child = command.stdout(output("stdout")).stderr(output("stderr")).spawn().unwrap();
        Self { child }
    }

    /// Starts it with this as its stdout, and what it says on stderr in the file of the site's folder.
    pub(crate) fn start_with(site: &Site, mut command: Command, stdout: OwnedFd) -> Self {
        let path = site.folder().join("stderr");
        let stderr = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child }
    }

    /// It, seen as any other process.
    pub(crate) fn daemon(&self) -> Daemon {
        Daemon { pid: Pid::from_raw(self.child.id().try_into().unwrap()) }
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the end of a process", || child.try_wait().unwrap())
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it answers, which it must do.
    #[track_caller]
    pub(crate) fn serves(&mut self, caller: &mut Caller) {
        eventually("a reply", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it has ended: {status}");
            }
            caller.ask("ping", &[], Duration::from_millis(100))
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server's end so far: {:?}", self.child.try_wait());
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells others that it is over when this goes, by a failure of the test too, so that nobody is waited
/// for in vain.
#[derive(Default)]
pub(crate) struct Over(AtomicBool);

impl Over {
    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What ends it.
    pub(crate) fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a AtomicBool);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Guard(&self.0)
    }
}

/// What a command has said and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end and until nobody has its output any more, the daemon included.
#[track_caller]
pub(crate) fn finish(mut command: Command) -> Finished {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, outputs) = mpsc::channel();
    let stdout = Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>;
    let stderr = Box::new(child.stderr.take().unwrap()) as Box<dyn Read + Send>;
    for (index, mut pipe) in [stdout, stderr].into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            // Nobody may listen any more.
            let _ = sender.send((index, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let mut said = [String::new(), String::new()];
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..2 {
        match outputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, text)) => said[index] = text,
            Err(_) => {
                let status = child.try_wait().unwrap();
                let _ = child.kill();
                panic!("somebody keeps the output of {command:?}, whose own state is {status:?}");
            }
        }
    }
    let code = eventually("the end of a command", || child.try_wait().unwrap()).code();
    let [stdout, stderr] = said;
    Finished { code, stdout, stderr }
}

impl Finished {
    /// Asserts that it failed with one line on stderr that has all these texts in it, and exit code 1.
    #[track_caller]
    pub(crate) fn expect_line(&self, texts: &[&str]) {
        let whole = self.stderr.ends_with('\n') && self.stderr.lines().count() == 1;
        let all = texts.iter().all(|text| self.stderr.contains(text));
        assert!(
            self.code == Some(1) && self.stdout.is_empty() && whole && all,
            "expected exit code 1 and one line with {texts:?}: {self:?}"
        );
    }
}

/// Somebody who asks one thing after the other.
pub(crate) struct Caller {
    socket: UdpSocket,
    thread: u32,
}

impl Caller {
    /// A caller of what listens on this port of 127.0.0.1.
    pub(crate) fn to(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        Self { socket, thread: 1024 }
    }

    /// Asks and waits so long for the reply to this very request.
    pub(crate) fn ask(&mut self, operation: &str, digests: &[&str], patience: Duration) -> Option<Reply> {
        self.thread += 1;
        // While nobody listens there, sending is refused.
        self.socket.send(request(operation, digests, self.thread).as_bytes()).ok()?;
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 8192];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).unwrap();
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let reply = Reply(buffer[..length].to_vec());
            if reply.number("Thread") == i64::from(self.thread) {
                return Some(reply);
            }
        }
    }

    /// Asks and gets a reply.
    #[track_caller]
    pub(crate) fn answered(&mut self, operation: &str, digests: &[&str]) -> Reply {
        self.ask(operation, digests, PATIENCE).unwrap_or_else(|| panic!("no reply to {operation}"))
    }

    /// How often a digest has been reported, according to the server.
    #[track_caller]
    pub(crate) fn count(&mut self, digest: &str) -> i64 {
        self.answered("check", &[digest]).counts().0
    }

    /// Sends a request with this `Thread` and does not wait.
    pub(crate) fn send(&self, operation: &str, digests: &[&str], thread: u32) {
        self.socket.send(request(operation, digests, thread).as_bytes()).unwrap();
    }

    /// The next reply that comes in so long.
    pub(crate) fn receive(&self, patience: Duration) -> Option<Reply> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 8192];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Some(Reply(buffer[..length].to_vec())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

fn request(operation: &str, digests: &[&str], thread: u32) -> String {
    let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
    format!("Op: {operation}\n{digests}PV: 2.1\nThread: {thread}\n\n")
}

/// A digest of its own for each number.
pub(crate) fn digest(number: u32) -> String {
    format!("{number:040x}")
}

/// For each digest the reports that were acknowledged and those whose outcome is not known.
#[derive(Default)]
pub(crate) struct Ledger {
    acknowledged: BTreeMap<String, i64>,
    unknown: BTreeMap<String, i64>,
}

impl Ledger {
    /// Enters one report of this digest. What was refused has not been counted.
    pub(crate) fn enter(&mut self, digest: &str, reply: Option<&Reply>) {
        match reply.map(Reply::code) {
            Some(200) => self.acknowledge(digest),
            Some(_) => {}
            None => *self.unknown.entry(digest.to_owned()).or_default() += 1,
        }
    }

    /// Enters one report of this digest to a server whose database is elsewhere: what it refused may have
    /// been counted, since nobody could tell.
    pub(crate) fn enter_doubtful(&mut self, digest: &str, reply: Option<&Reply>) {
        let refused = reply.is_some_and(|reply| reply.code() != 200);
        self.enter(digest, reply.filter(|_| !refused));
    }

    /// How many reports are neither known to have been counted nor known not to have been.
    pub(crate) fn doubtful(&self) -> i64 {
        self.unknown.values().sum()
    }

    /// Enters one report that was acknowledged.
    pub(crate) fn acknowledge(&mut self, digest: &str) {
        *self.acknowledged.entry(digest.to_owned()).or_default() += 1;
    }

    /// Adds what somebody else has entered.
    pub(crate) fn add(&mut self, other: Self) {
        for (digest, count) in other.acknowledged {
            *self.acknowledged.entry(digest).or_default() += count;
        }
        for (digest, count) in other.unknown {
            *self.unknown.entry(digest).or_default() += count;
        }
    }

    /// How many reports were acknowledged.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged.values().sum()
    }

    /// Asserts that everything acknowledged is stored, and nothing that was never sent.
    #[track_caller]
    pub(crate) fn compare(&self, stored: &BTreeMap<String, i64>) {
        let count = |map: &BTreeMap<String, i64>, digest: &str| map.get(digest).copied().unwrap_or_default();
        for digest in self.acknowledged.keys().chain(stored.keys()) {
            let least = count(&self.acknowledged, digest);
            let most = least + count(&self.unknown, digest);
            let found = count(stored, digest);
            assert!((least..=most).contains(&found), "{digest}: {found} stored, expected {least} to {most}");
        }
    }
}
