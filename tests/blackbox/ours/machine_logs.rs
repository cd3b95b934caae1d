//! Logs that cannot be written under load: nothing waits for them, and lost lines are counted.

use std::fs::{self, File};
use std::io::{Read, Write};

use nix::sys::signal::Signal;

use crate::harness::{Home, Server, eventually, fifo};
use crate::ours::machine::under_load;

/// Returns the sum of the numbers before this text in a log.
pub(crate) fn sum_before(log: &str, text: &str) -> i64 {
    let before = |line: &str| line.split_once(text)?.0.rsplit(' ').next()?.parse::<i64>().ok();
    log.lines().filter_map(before).sum()
}

/// Returns the number of complete report lines in a usage log.
pub(crate) fn reports(usage: &str) -> i64 {
    let lines = usage.lines().filter(|line| line.contains(",report,") && line.ends_with(",200"));
    i64::try_from(lines.count()).unwrap()
}

/// Fills a pipe completely.
fn fill(mut pipe: &File) {
    for size in [4096, 1] {
        while pipe.write(&vec![b'\n'; size]).is_ok() {}
    }
}

/// Reads the content of a pipe.
fn drain(mut pipe: &File) -> String {
    let mut bytes = Vec::new();
    // Ends with WouldBlock.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn start_does_not_wait_for_a_full_log_pipe() {
    // For example a restart while the reader of the log hangs.
    for option in ["--log-file", "--usage-log-file"] {
        let home = Home::open();
        let path = home.parent().join("pipe");
        let reader = fifo(&path);
        fill(&reader);
        let mut command = home.command();
        command.arg(option).arg(&path);
        let mut server = Server::start(&home, command);
        server.serves(&mut home.caller());
        let ledger = under_load(&home, || ());
        if option == "--log-file" {
            let mut text = drain(&reader);
            server.process().signal(Signal::SIGUSR1);
            eventually("the number of lines lost at the start", || {
                text += &drain(&reader);
                (sum_before(&text, " lines were lost") > 2).then_some(())
            });
        }
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
        ledger.compare(&home.stored());
    }
}

#[test]
fn hup_replaces_a_full_pipe_by_a_file() {
    let home = Home::open();
    let path = home.parent().join("usage");
    let reader = fifo(&path);
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
fn hup_on_the_same_pipe_breaks_no_line() {
    let home = Home::open();
    let path = home.parent().join("usage");
    let reader = fifo(&path);
    let mut command = home.command();
    command.arg("--usage-log-file").arg(&path);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    let mut bytes = Vec::new();
    let ledger = under_load(&home, || {
        fill(&reader);
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            // Makes room for many lines and a part of one, so that the pipe is full again in the middle of a line.
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
