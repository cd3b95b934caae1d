//! The lines on stderr when that is the journal.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::fstat;

use crate::harness::{Home, Process, Server, eventually, finish};

/// The journal's end of a socket.
struct Journal {
    reader: UnixStream,
    writer: Option<UnixStream>,
    /// The value of `JOURNAL_STREAM`.
    name: String,
}

impl Journal {
    fn new() -> Self {
        let (reader, writer) = UnixStream::pair().unwrap();
        let status = fstat(&writer).unwrap();
        let name = format!("{}:{}", status.st_dev, status.st_ino);
        Self { reader, writer: Some(writer), name }
    }

    /// Returns the command of a server whose stderr is the journal.
    fn attach(&mut self, home: &Home, detached: bool) -> Command {
        let mut command = home.under("exec \"$@\" 2>&0 0</dev/null", detached);
        command.stdin(OwnedFd::from(self.writer.take().unwrap())).env("JOURNAL_STREAM", &self.name);
        command
    }

    /// Returns the lines after the end of all writers.
    fn lines(mut self) -> Vec<String> {
        let mut text = String::new();
        self.reader.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// Reloads twice, the second time with an access file that cannot be read, and stops.
#[track_caller]
fn run(home: &Home, process: Process) {
    let access = home.path("pyzord.access");
    process.signal(Signal::SIGUSR1);
    eventually("a reload", || home.log().contains("have been reloaded").then_some(()));
    fs::remove_file(&access).unwrap();
    fs::create_dir(&access).unwrap();
    process.signal(Signal::SIGUSR1);
    eventually("a failed reload", || home.log().contains("cannot read the access file").then_some(()));
    process.signal(Signal::SIGTERM);
}

/// The beginnings of the lines of a run in the journal.
const RUN: [&str; 8] = [
    "<6>Starting pyzord server.",
    "<6>Listening on 127.0.0.1:",
    "<6>SIGUSR1 received. Reloading configuration.",
    "<6>The accounts and the access rules have been reloaded.",
    "<6>SIGUSR1 received. Reloading configuration.",
    "<3>cannot read the access file ",
    "<6>SIGTERM received. Shutting down.",
    "<6>Server shutdown.",
];

#[track_caller]
fn expect_lines(lines: &[String], expected: &[&str]) {
    let is_same = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start));
    assert!(is_same, "{lines:#?}");
}

/// Follows a server through its lines in the journal, beside a log file in the usual form.
#[track_caller]
pub(super) fn follow(home: &Home) {
    let mut journal = Journal::new();
    let mut server = Server::start(home, journal.attach(home, false));
    server.serves(&mut home.caller());
    run(home, server.process());
    assert_eq!(server.ended().code(), Some(0));
    expect_lines(&journal.lines(), &RUN);
    let log = home.log();
    let stamp = format!("({}) INFO Starting pyzord server.\n", server.pid());
    assert!(log.contains(&stamp) && !log.contains("<6>"), "{log}");
}

#[test]
fn start_stop_and_reloads_are_in_the_journal_beside_a_log_file() {
    follow(&Home::open());
}

#[test]
fn detached_server_leaves_the_journal_when_it_serves() {
    let home = Home::open();
    let mut journal = Journal::new();
    let finished = finish(journal.attach(&home, true));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    run(&home, home.daemon());
    expect_lines(&journal.lines(), &RUN[..2]);
}

#[test]
fn journal_has_all_lines_if_there_is_no_log_file() {
    let home = Home::open().arguments(&["--log-file", ""]).access("all : anonymous : allow\nnonsense\n");
    let mut journal = Journal::new();
    let mut server = Server::start(&home, journal.attach(&home, false));
    server.serves(&mut home.caller());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    let lines = journal.lines();
    for start in ["<6>Confinement: ", "<6>Listening on ", "<4>", "<6>Server shutdown."] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:#?}");
    }
    assert!(lines.iter().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{lines:#?}");
}

#[test]
fn debug_lines_and_early_errors_have_priorities() {
    let home = Home::open().arguments(&["--debug"]);
    let mut journal = Journal::new();
    let mut server = Server::start(&home, journal.attach(&home, false));
    server.serves(&mut home.caller());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    let lines = journal.lines();
    let usage = |line: &String| line.starts_with("<7>") && line.ends_with(",ping,None,200");
    assert!(lines.iter().any(usage), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("<7>Sending: ")), "{lines:#?}");
    let home = Home::open().config("CleanupAge = never\nUnknown = 1\n");
    let mut journal = Journal::new();
    let finished = finish(journal.attach(&home, false));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let lines = journal.lines();
    let starts: Vec<&str> = lines.iter().map(|line| &line[..3]).collect();
    assert_eq!(starts, ["<4>", "<3>"], "{lines:#?}");
}

#[test]
fn other_stderr_keeps_its_form() {
    let home = Home::open();
    for name in ["1:1", "", "nonsense", ":"] {
        let mut journal = Journal { name: name.to_owned(), ..Journal::new() };
        let _port = home.take_port();
        let finished = finish(journal.attach(&home, false));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        expect_lines(&journal.lines(), &["pyzord: error: cannot listen on "]);
    }
}
