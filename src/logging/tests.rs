use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;

use jiff::tz::TimeZone;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::line::{LineStamp, push_printable};
use super::*;
use crate::record::Timestamp;

const PATIENCE: Duration = Duration::from_secs(10);

fn sink(path: &Path, limit: usize) -> Arc<Sink> {
    Arc::new(Sink::new("log file", Some(path), target("log file", path, &[]).unwrap(), limit))
}

fn finish(sink: &Sink) {
    sink.close();
    sink.wait(Instant::now() + PATIENCE);
}

#[test]
fn a_line_begins_with_local_time_process_and_level() {
    let mut stamp = LineStamp::new(TimeZone::posix("EST5").unwrap(), 12483);
    let mut text = |micros| {
        let mut out = Vec::new();
        stamp.push(&mut out, Timestamp::from_micros(micros), "INFO");
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(1_795_343_206_772_999), "2026-11-22 05:26:46,772 (12483) INFO ");
    assert_eq!(text(1_795_343_206_005_000), "2026-11-22 05:26:46,005 (12483) INFO ");
    assert_eq!(text(1_795_343_207_000_000), "2026-11-22 05:26:47,000 (12483) INFO ");
}

#[test]
fn nothing_in_a_text_can_begin_a_line_or_steer_a_terminal() {
    let mut out = Vec::new();
    push_printable(&mut out, "a\nb\r\x1b[31m\u{9b}\u{7f}\u{2028}é'\"\\");
    assert_eq!(String::from_utf8(out).unwrap(), "a\\nb\\r\\u{1b}[31m\\u{9b}\\u{7f}\\u{2028}é'\"\\");
}

#[test]
fn usage_lines_are_those_of_the_established_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage");
    let sink = sink(&path, 10_000);
    let mut log = UsageLog::new(vec![Arc::clone(&sink)]);
    assert!(log.enabled());
    let v4: IpAddr = "127.0.0.1".parse().unwrap();
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
    log.executed(b"", v4, "pong", std::iter::empty());
    log.executed(b"bob", mapped, "report", [&b"aaaa"[..], b"bbbb"].into_iter());
    log.executed(b"b\xe9\n", v4, "pong", [&b"it's\n\\"[..], b"'\"", b"\xe9\x00"].into_iter());
    log.refused(403, "Forbidden: User is not authorized to request the operation.");
    log.hand_over();
    let text = fs::read_to_string(&path).unwrap();
    let expected = [
        "INFO anonymous,127.0.0.1,pong,None,200",
        "INFO bob,::ffff:127.0.0.1,report,['aaaa', 'bbbb'],200",
        "INFO b\\xe9\\n,127.0.0.1,pong,[\"it's\\n\\\\\", '\\'\"', '\\xe9\\x00'],200",
        "ERROR 403: Forbidden: User is not authorized to request the operation.",
    ];
    let process = format!("({}) ", std::process::id());
    let lines: Vec<_> = text.lines().map(|line| line.split_once(&process).unwrap().1).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_log_that_nobody_wants_keeps_nothing() {
    let mut log = UsageLog::none();
    log.refused(400, "x");
    log.executed(b"", "::1".parse().unwrap(), "ping", std::iter::empty());
    assert!(!log.enabled());
    log.hand_over();
}

#[test]
fn a_thread_writes_everything_before_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let sink = sink(&path, 1 << 20);
    sink.append(b"before\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\n");
    sink.start();
    for number in 0..1000 {
        sink.append(format!("{number}\n").as_bytes());
    }
    finish(&sink);
    let expected: String =
        std::iter::once("before\n".to_owned()).chain((0..1000).map(|n| format!("{n}\n"))).collect();
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn a_reopened_file_gets_what_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let sink = sink(&path, 1 << 20);
    sink.start();
    sink.append(b"old\n");
    let deadline = Instant::now() + PATIENCE;
    while fs::read(&path).unwrap().is_empty() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    fs::rename(&path, &moved).unwrap();
    sink.replace(target("log file", &path, &[]).unwrap());
    finish(&sink);
    assert_eq!(
        (fs::read_to_string(&moved).unwrap(), fs::read_to_string(&path).unwrap()),
        ("old\n".into(), String::new())
    );
}

#[test]
fn lines_go_to_the_file_that_was_open_when_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let sink = sink(&path, 1 << 20);
    sink.start();
    for round in 0..20 {
        // All of it before the thread has written anything, most of the time.
        sink.append(b"old\n");
        fs::rename(&path, &moved).unwrap();
        sink.replace(target("log file", &path, &[]).unwrap());
        sink.append(b"new\n");
        let deadline = Instant::now() + PATIENCE;
        while fs::read(&path).unwrap().is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let expected = if round == 0 { "old\n" } else { "new\nold\n" };
        assert_eq!(
            (fs::read_to_string(&moved).unwrap().as_str(), fs::read_to_string(&path).unwrap().as_str()),
            (expected, "new\n")
        );
    }
    finish(&sink);
}

/// A pipe that nobody reads: writing to it blocks, adding lines never does, and what does not fit
/// is dropped in whole lines.
#[test]
fn a_destination_that_blocks_costs_lines_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert!(
        target("log file", &path, &[]).unwrap_err().to_string().contains("start its reader first"),
        "there is no reader yet"
    );
    let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let sink = sink(&path, 1000);
    sink.start();
    let line = format!("{}\n", "x".repeat(99));
    for _ in 0..5000 {
        sink.append(line.as_bytes());
        std::thread::yield_now();
    }
    sink.close();
    // It hangs, and is not waited for beyond the deadline.
    sink.wait(Instant::now() + Duration::from_millis(50));

    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut reader, &mut text).unwrap_or_default();
    drop(sink);
    assert!(text.len() < 5000 * 100, "nothing was dropped");
    assert!(text.lines().all(|read| read == line.trim_end()), "a line was torn");
}

#[test]
fn files_are_appended_to_and_private() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    drop(open::to_append(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "old\n").unwrap();
    sink(&path, 100).append(b"new\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
    let error = target("usage log file", &folder.path().join("missing/log"), &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot open the usage log file /") && error.ends_with("(os error 2)"),
        "{error}"
    );
}
