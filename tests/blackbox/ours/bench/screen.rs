//! The text output, which must fit a terminal of 80 columns and 24 lines.

use std::fs::File;
use std::io::Read;
use std::net::UdpSocket;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::pty::openpty;

use super::{Echo, Recorder, program, said};

const EVERY_OP: &str = "--mix ping=1,pong=1,check=1,info=1,report=1,whitelist=1";

/// Asserts that a text fits, and returns the number of rows of its histogram.
#[track_caller]
fn expect_fits(text: &str) -> usize {
    assert!(text.lines().count() <= 24, "{} lines:\n{text}", text.lines().count());
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    let rows = text.lines().filter(|line| line.trim_start().starts_with("< ")).count();
    assert!(rows <= 12, "{rows} rows:\n{text}");
    rows
}

#[test]
fn worst_outcome_fits_a_terminal() {
    // Latencies of all magnitudes, eight codes, late and doubled replies.
    let recorder = Recorder::start((), |(), number, mut replies| {
        match number % 40 {
            0 => return,
            1 => return replies.after(Duration::from_millis(700)),
            2 => replies.now(),
            code @ 10..18 => {
                replies.reply.splice(6..9, format!("4{code}").into_bytes());
            }
            _ => {}
        }
        match number % 3 {
            0 => replies.now(),
            _ => replies.after(Duration::from_millis(u64::try_from(number).unwrap() * 7 % 290)),
        }
    });
    let account = "--user alice --key 0123456789abcdef0123456789abcdef01234567";
    for more in [
        "--window 100 --zipf 0.99 --digests 1000000000 --count 3000",
        "--rate 2000 --duration 1 --warm-up 0.3",
    ] {
        let finished = said(&format!("{EVERY_OP} {account} --timeout 0.4 {more}"), recorder.address);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let text = &finished.stdout;
        expect_fits(text);
        for expected in ["lost", "failed with code 4", "with other codes", "too late", "matched no request"] {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
        let rows = ["ping ", "pong ", "check ", "info ", "report ", "whitelist ", "all "];
        let place = |row: &str| text.lines().position(|line| line.starts_with(row)).expect(row);
        let places: Vec<usize> = rows.iter().map(|row| place(row)).collect();
        let summary = text.lines().position(|line| line.contains(" sent: ")).expect("a summary");
        assert!(places.iter().all(|place| *place < summary), "{text}");
    }
    recorder.stop();
}

#[test]
fn figures_have_separators_and_the_summary_is_last() {
    let echo = Echo::start(&[]);
    let finished = said("--count 12345 --window 20", echo.address);
    let text = &finished.stdout;
    let rows = expect_fits(text);
    assert!((1..=12).contains(&rows), "{text}");
    assert!(text.contains("\n12,345 sent: 12,345 answered\n"), "{text}");
    assert!(text.contains("100,000 digests"), "{text}");
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    assert!(last.iter().any(|line| line.contains(" replies a second for ")), "{text}");
}

#[test]
fn unsent_requests_are_reported() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let arguments = "--rate 10000000 --timeout 0.1 --duration 0.3 --warm-up 0";
    let finished = said(arguments, silent.local_addr().unwrap());
    expect_fits(&finished.stdout);
    for expected in
        ["3,000,000 scheduled: ", " unsent\n", "sent late by: p50", "could not keep up with the rate"]
    {
        assert!(finished.stdout.contains(expected), "no {expected:?} in {finished:?}");
    }
}

#[test]
fn progress_on_a_terminal_is_one_line_that_is_erased() {
    let echo = Echo::start(&[]);
    for (more, is_in_place) in [("", true), ("--interval 0.5", false)] {
        let pty = openpty(None, None).unwrap();
        let mut command = program(&format!("--duration 2.5 --warm-up 0 --window 4 {more}"), echo.address);
        command.stdout(Stdio::piped()).stderr(pty.slave);
        let mut child = command.spawn().unwrap();
        // The command has a copy of the terminal's file descriptor, which would keep it open.
        drop(command);
        let mut terminal = File::from(pty.master);
        let reader = thread::spawn(move || {
            let mut said = Vec::new();
            let mut buffer = [0; 4096];
            // Reading fails when the program has closed the terminal.
            while let Ok(length @ 1..) = terminal.read(&mut buffer) {
                said.extend_from_slice(&buffer[..length]);
            }
            String::from_utf8(said).unwrap()
        });
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let said = reader.join().unwrap();
        assert!(said.contains("replies/s"), "{said:?}");
        assert_eq!(said.contains('\n'), !is_in_place, "{said:?}");
        assert_eq!(said.ends_with("\r\x1b[K"), is_in_place, "{said:?}");
        for line in said.split(['\r', '\n']) {
            assert!(line.trim_end_matches("\x1b[K").chars().count() < 80, "{line:?}");
        }
        expect_fits(&text);
    }
}
