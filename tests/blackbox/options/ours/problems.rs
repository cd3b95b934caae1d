//! Messages about bad options.

use std::collections::BTreeSet;

use super::run;
use crate::harness::{DIGEST, Home, finish};
use crate::options::{config, expect_service};

#[test]
fn problems_of_config_files_are_reported_with_the_line() {
    let home = Home::open();
    for (text, line) in [
        ("Port = 1\n", 1),
        ("[server]\nPort\n", 2),
        ("[server]\nPort = 1\nport = 2\n", 3),
        ("[server]\nPort = 1\n\n[server]\n", 4),
        ("[server]\n= 3\n", 2),
        ("[server]\nPort = 31310 # comment\n", 2),
        ("[server]\nPort = \"31310\"\n", 2),
        ("[server]\n# comment\nPort = 65536\n", 3),
        ("[server]\nPort = -1\n", 2),
        ("[server]\nCleanupAge = 1d\n", 2),
        ("[server]\nThreads = true\nMaxThreads = -1\n", 3),
        ("[server]\nPreFork = 1\n", 2),
        ("[server]\nPreFork = abc\n", 2),
        ("[server]\nEngine = oracle\n", 2),
        ("[server]\nAccessOrder = middle\n", 2),
        ("[server]\nLogFile = %(Nothing)s\n", 2),
        ("[server]\nThreads = true\nProcesses = true\n", 3),
    ] {
        home.rewrite("config", text);
        let mut command = home.bare();
        command.arg("--homedir").arg(home.directory());
        let place = format!("pyzord: error: {}:{line}: ", home.path("config").display());
        finish(command).expect_line(&[&place]);
    }
    assert!(!home.path("pyzord.db").exists());
}

#[test]
fn bad_values_of_the_command_line_name_their_option() {
    let home = Home::open();
    for (option, value) in [
        ("--port", "65536"),
        ("--cleanup-age", "-1"),
        ("--cleanup-age", "long"),
        ("--database-engine", "GDBM"),
        ("--pre-fork", "1"),
        ("--access-order", "middle"),
    ] {
        run(&home, &["--homedir", "home", option, value])
            .expect_line(&[&format!("pyzord: error: {option}: ")]);
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let home = Home::open();
    config(&home, "Port = x\nCleanupAge = y\nPidFile = p\n");
    let mut command = home.bare();
    command.arg("--homedir").arg(home.directory()).args(["--pre-fork", "1", "--detach", "/dev/null"]);
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    let file = home.path("config");
    let lines: BTreeSet<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{finished:#?}");
    for place in [
        format!("{}:2: Port: ", file.display()),
        format!("{}:3: CleanupAge: ", file.display()),
        "--pre-fork: ".into(),
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("pyzord: error: {place}"))),
            "{place}{finished:#?}"
        );
    }
    // A bad value does not matter if the command line overrides it.
    let port = home.port().to_string();
    expect_service(&home, &["--homedir", "home", "-a", "127.0.0.1", "-p", &port, "--cleanup-age", "0"]);
}

#[test]
fn an_unknown_option_of_the_file_is_a_warning_with_the_nearest_name() {
    let home = Home::open();
    config(&home, "LogFile = pyzord.log\nPasswordFile = x\n");
    let warning = format!("{}:3: ", home.path("config").display());
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    let stderr: Vec<&str> = finished.stderr.lines().collect();
    assert!(
        matches!(stderr[..], [line] if line.contains(&warning) && line.contains("PasswdFile")),
        "{stderr:?}"
    );
    home.daemon().stop();
    let log = home.log();
    assert!(log.lines().any(|line| line.contains(" WARNING ") && line.contains(&warning)), "{log}");
}

#[test]
fn rules_that_depend_on_the_order_cause_a_warning_unless_one_is_chosen() {
    let home = Home::new().access("check : anonymous : deny\ncheck ping : anonymous : allow\n");
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    assert!(finished.stderr.contains("pyzord.access") && finished.stderr.contains("check"), "{finished:?}");
    assert_eq!(home.caller().answered("check", &[DIGEST]).code(), 403);
    home.daemon().stop();
    for (order, code) in [("first", 403), ("last", 200)] {
        let mut command = home.detached();
        command.args(["--access-order", order]);
        let daemon = home.detach_with(command);
        assert_eq!(home.caller().answered("check", &[DIGEST]).code(), code);
        daemon.stop();
    }
}

#[test]
fn options_without_effect_are_accepted_and_reported() {
    let home = Home::open();
    config(
        &home,
        "LogFile = pyzord.log\nThreads = True\nMaxThreads = 4\nPreFork = 4\nMaxProcesses = 3\nDBConnections = 9\n\
         Gevent = True\nSentryDSN = https://secret@sentry.example/1\nUsageSentryLogLevel = INFO\n",
    );
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.stderr.lines().filter(|line| line.contains("Sentry")).count(), 1, "{finished:?}");
    home.daemon().stop();
    let log = home.log();
    assert_eq!(log.lines().filter(|line| line.contains("PreFork")).count(), 1, "{log}");
    assert!(!finished.stderr.contains("secret") && !log.contains("secret"));
}
