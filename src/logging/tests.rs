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
fn line_begins_with_local_time_and_process_id_and_level() {
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
fn control_characters_are_escaped() {
    let mut out = Vec::new();
    push_printable(&mut out, "a\nb\r\x1b[31m\u{9b}\u{7f}\u{2028}é'\"\\");
    assert_eq!(String::from_utf8(out).unwrap(), "a\\nb\\r\\u{1b}[31m\\u{9b}\\u{7f}\\u{2028}é'\"\\");
}

#[test]
fn usage_lines_equal_those_of_the_python_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("usage");
    let sink = sink(&path, 10_000);
    let mut log = UsageLog::new(vec![Arc::clone(&sink)], None);
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
fn usage_log_without_sinks_keeps_nothing() {
    let mut log = UsageLog::none();
    log.refused(400, "x");
    log.executed(b"", "::1".parse().unwrap(), "ping", std::iter::empty());
    assert!(!log.enabled());
    log.hand_over();
}

#[test]
fn writer_thread_writes_everything_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
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
fn reopened_file_gets_later_lines_only() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
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
fn lines_go_to_the_file_that_was_open_when_they_were_added() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
    let sink = sink(&path, 1 << 20);
    sink.start();
    for round in 0..20 {
        // Usually all of this happens before the thread writes anything.
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

/// A pipe without a reader blocks the writer thread only: adding lines never waits, and whole lines are dropped.
#[test]
fn full_pipe_drops_whole_lines_and_delays_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert!(
        target("log file", &path, &[]).unwrap_err().to_string().contains("start its reader first"),
        "the pipe has no reader yet"
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
    // The thread hangs; the wait ends at the deadline.
    sink.wait(Instant::now() + Duration::from_millis(50));

    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut reader, &mut text).unwrap_or_default();
    drop(sink);
    assert!(text.len() < 5000 * 100, "nothing was dropped");
    assert!(text.lines().all(|read| read == line.trim_end()), "a line was torn");
}

#[test]
fn log_files_are_private_and_appended_to() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    drop(open::to_append(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "old\n").unwrap();
    sink(&path, 100).append(b"new\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
    let error = target("usage log file", &directory.path().join("missing/log"), &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot open the usage log file /") && error.ends_with("(os error 2)"),
        "{error}"
    );
}
