//! Logs that cannot be written while others report: nothing waits for them, and what they miss is counted.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{Home, Server, eventually};
use crate::ours::machine::under_load;

/// The sum of the numbers in front of this text in a log.
pub(crate) fn told(log: &str, text: &str) -> i64 {
    let before = |line: &str| line.split_once(text)?.0.rsplit(' ').next()?.parse::<i64>().ok();
    log.lines().filter_map(before).sum()
}

/// How many lines of a usage log are of a report, and whole.
pub(crate) fn reports(usage: &str) -> i64 {
    let lines = usage.lines().filter(|line| line.contains(",report,") && line.ends_with(",200"));
    i64::try_from(lines.count()).unwrap()
}

/// A pipe with a reader who reads nothing by itself.
fn pipe(path: &Path) -> File {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    // Both ways, so that it can be filled.
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// Leaves no room in a pipe.
fn fill(mut pipe: &File) {
    for size in [4096, 1] {
        while pipe.write(&vec![b'\n'; size]).is_ok() {}
    }
}

/// What is in a pipe.
fn drain(mut pipe: &File) -> String {
    let mut bytes = Vec::new();
    // It ends with the error that there is no more.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_start_does_not_wait_for_a_log_that_nobody_reads() {
    // What an operator meets who restarts a server whose reader of logs hangs.
    for option in ["--log-file", "--usage-log-file"] {
        let home = Home::open();
        let path = home.parent().join("pipe");
        let reader = pipe(&path);
        fill(&reader);
        let mut command = home.command();
        command.arg(option).arg(&path);
        let mut server = Server::start(&home, command);
        server.serves(&mut home.caller());
        let ledger = under_load(&home, || ());
        if option == "--log-file" {
            let mut text = drain(&reader);
            server.process().signal(Signal::SIGUSR1);
            eventually("what was lost at the start", || {
                text += &drain(&reader);
                (told(&text, " lines were lost") > 2).then_some(())
            });
        }
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
        ledger.compare(&home.stored());
    }
}

#[test]
fn a_log_on_a_pipe_that_nobody_reads_is_left_for_another_by_hup() {
    let home = Home::open();
    let path = home.parent().join("usage");
    let reader = pipe(&path);
    let mut command = home.command();
    command.arg("--usage-log-file").arg(&path);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    let ledger = under_load(&home, || {
        fill(&reader);
        fs::rename(&path, home.parent().join("stuck")).unwrap();
        server.process().signal(Signal::SIGHUP);
        eventually("lines in the other file", || {
            (reports(&fs::read_to_string(&path).unwrap_or_default()) > 0).then_some(())
        });
    });
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    ledger.compare(&home.stored());
}

#[test]
fn a_pipe_that_keeps_its_name_gets_whole_lines_whatever_hup_does() {
    let home = Home::open();
    let path = home.parent().join("usage");
    let reader = pipe(&path);
    let mut command = home.command();
    command.arg("--usage-log-file").arg(&path);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    let mut bytes = Vec::new();
    let ledger = under_load(&home, || {
        fill(&reader);
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            // Room for many lines and a part of one: the pipe is full again within a line.
            let mut part = vec![0; 4096 + 13];
            let length = (&reader).read(&mut part).unwrap_or(0);
            bytes.extend_from_slice(&part[..length]);
            server.process().signal(Signal::SIGHUP);
        }
    });
    server.process().signal(Signal::SIGUSR1);
    let mut text = String::from_utf8(bytes).unwrap();
    eventually("all lines", || {
        text += &drain(&reader);
        (reports(&text) >= ledger.acknowledged()).then_some(())
    });
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    text += &drain(&reader);
    assert_eq!(reports(&text), ledger.acknowledged());
    let fields = |line: &&str| line.starts_with("20") && line.matches(',').count() == 5;
    let broken = text.lines().find(|line| !line.is_empty() && !fields(line));
    assert_eq!(broken, None);
}
