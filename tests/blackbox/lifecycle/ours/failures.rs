//! Starts that fail.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{Home, finish};

/// Asserts that `--detach` fails with one line that contains these texts, and leaves nothing behind.
#[track_caller]
fn expect_failure(home: &Home, command: Command, texts: &[&str]) {
    finish(command).expect_line(texts);
    home.expect_no_process();
    assert!(!home.path("pyzord.pid").is_file(), "the pid file is left");
}

#[test]
fn port_in_use_fails_the_start() {
    let home = Home::open();
    let _taken = home.take_port();
    expect_failure(&home, home.detached(), &[&format!("127.0.0.1:{}", home.port())]);
    assert!(home.log().contains(&home.port().to_string()), "the log does not mention the port");
}

#[test]
fn invalid_database_fails_the_start_and_stays_unchanged() {
    let home = Home::open();
    for garbage in ["nonsense".repeat(5000), "short".into()] {
        home.rewrite("pyzord.db", &garbage);
        expect_failure(&home, home.detached(), &[home.path("pyzord.db").to_str().unwrap()]);
        assert_eq!(home.read("pyzord.db"), garbage);
    }
}

#[test]
fn database_locked_by_another_process_fails_the_start() {
    let home = Home::open();
    home.detach().stop();
    let mut python = home.mark(Command::new("/usr/bin/python3"));
    let script = "import dbm.gnu, sys\nd = dbm.gnu.open(sys.argv[1], 'w')\nprint('open', flush=True)\nsys.stdin.read()";
    python.args(["-c", script]);
    let mut holder =
        python.arg(home.path("pyzord.db")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "open\n", "run tests/setup.sh");
    let path = home.path("pyzord.db");
    finish(home.detached()).expect_line(&[path.to_str().unwrap(), &format!("process {}", holder.id())]);
    assert!(!home.path("pyzord.pid").exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    home.detach().stop();
}

#[test]
fn bad_settings_fail_the_start() {
    let home = Home::open();
    home.rewrite("config", "[server]\nCleanupAge = long\n");
    expect_failure(&home, home.detached(), &["config", "2", "CleanupAge", "long"]);
    assert!(!home.path("pyzord.db").exists());
}

#[test]
fn files_that_cannot_be_written_fail_the_start() {
    let home = Home::open();
    let nowhere = home.parent().join("missing/file");
    let nowhere = nowhere.to_str().unwrap();
    for option in ["--pid-file", "--log-file", "--usage-log-file", "--dsn", "--detach"] {
        let mut command = home.detached();
        command.args([option, nowhere]);
        expect_failure(&home, command, &[nowhere]);
    }
    // A directory instead of the file.
    let directory = home.parent().join("in-the-way");
    fs::create_dir(&directory).unwrap();
    let directory = directory.to_str().unwrap();
    for option in [
        "--pid-file",
        "--log-file",
        "--usage-log-file",
        "--dsn",
        "--detach",
        "--password-file",
        "--access-file",
    ] {
        let mut command = home.detached();
        command.args([option, directory]);
        expect_failure(&home, command, &[directory]);
    }
}

#[test]
fn address_of_no_interface_fails_the_start() {
    let home = Home::open();
    // 192.0.2.0/24 is reserved for documentation.
    let mut command = home.detached();
    command.args(["-a", "192.0.2.1"]);
    let finished = finish(command);
    // Lines before the last one report the wait.
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert!(finished.code == Some(1) && finished.stdout.is_empty(), "{finished:?}");
    assert!(last.contains("error: cannot listen on 192.0.2.1:"), "{finished:?}");
    home.expect_no_process();
}

#[test]
fn homedir_that_cannot_be_created_fails_the_start() {
    let home = Home::open();
    for (homedir, exists) in [("missing/home", false), ("a-file", true)] {
        let homedir = home.parent().join(homedir);
        if exists {
            fs::write(&homedir, "").unwrap();
        }
        let mut command = home.detached();
        command.arg("--homedir").arg(&homedir);
        expect_failure(&home, command, &[homedir.to_str().unwrap()]);
    }
}

/// A second start beside a running server, with a wrong cleanup age.
#[test]
fn failed_start_expires_no_record() {
    let home = Home::open();
    let old = "a".repeat(40);
    home.database().write(&[(&old, "1,7,2020-01-01 00:00:00,2020-01-01 00:00:00,0,None,None")]);
    let _taken = home.take_port();
    let mut command = home.command();
    command.args(["--cleanup-age", "86400"]);
    finish(command).expect_line(&["the port is in use"]);
    assert_eq!(home.stored(), [(old, 7)].into());
    assert!(!home.log().contains("Expiry:"), "{}", home.log());
}
