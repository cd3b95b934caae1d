//! `--check-config`.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::{Account, Finished, Home, finish};
use crate::options::config;

/// Runs `--check-config` and asserts the exit code, and that the lines of stderr begin with exactly these texts, in this
/// order.
#[track_caller]
fn expect_check(home: &Home, code: i32, lines: &[&str]) -> Finished {
    let before = listing(home);
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    let found: Vec<&str> = finished.stderr.lines().collect();
    let same =
        found.len() == lines.len() && found.iter().zip(lines).all(|(found, line)| found.starts_with(line));
    assert!(finished.code == Some(code) && same, "expected {code}, {lines:#?}\nfound {finished:#?}");
    assert_eq!(listing(home), before, "a file was created or removed");
    finished
}

fn listing(home: &Home) -> BTreeSet<String> {
    let entries = fs::read_dir(home.directory()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().display().to_string()).collect()
}

#[test]
fn check_config_accepts_a_good_configuration_and_starts_nothing() {
    let home = Home::open().passwd(Account::new("bob").passwd());
    let _taken = home.take_port();
    let finished = expect_check(&home, 0, &[]);
    assert_ne!(finished.stdout, "");
    // A missing homedir is not created.
    let mut command = home.bare();
    command.arg("--check-config").arg("--homedir").arg(home.parent().join("new"));
    assert_eq!(finish(command).code, Some(0));
    assert!(!home.parent().join("new").exists());
}

#[test]
fn check_config_does_not_disturb_a_running_daemon() {
    let home = Home::open();
    let daemon = home.detach();
    expect_check(&home, 0, &[]);
    assert_eq!(home.log().matches("Starting pyzord server.").count(), 1);
    assert_eq!(home.read("pyzord.pid"), format!("{}\n", daemon.pid()));
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    daemon.stop();
}

#[test]
fn check_config_reports_every_problem_with_file_and_line() {
    let home = Home::open();
    config(&home, "Port = high\nLogFile = pyzord.log\nPorts = 3\nEngine = GDBM\nCleanupAge = -1\n");
    let file = home.path("config");
    let file = file.display();
    let lines =
        ["warning: {}:4: ", "error: {}:2: Port: ", "error: {}:5: Engine: ", "error: {}:6: CleanupAge: "];
    let lines = lines.map(|line| format!("pyzord: {}", line.replace("{}", &file.to_string())));
    let mut command = home.bare();
    command.arg("--check-config").arg("--homedir").arg(home.directory());
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("3 errors and 1 warning"), "{finished:#?}");
    assert_eq!(finished.stderr.lines().count(), lines.len(), "{finished:#?}");
    for line in lines {
        assert!(finished.stderr.lines().any(|found| found.starts_with(&line)), "no {line}: {finished:#?}");
    }
    assert_eq!(listing(&home), ["config", "pyzord.access"].map(str::to_owned).into());
}

#[test]
fn check_config_reports_problems_of_accounts_and_access() {
    let home = Home::new().passwd("# accounts\nbob\n").access("check : bob : allow\n\ncheck : bob : maybe\n");
    let (passwd, access) = (home.path("pyzord.passwd"), home.path("pyzord.access"));
    expect_check(
        &home,
        0,
        &[
            &format!("pyzord: warning: {}:2: ", passwd.display()),
            &format!("pyzord: warning: {}:3: ", access.display()),
        ],
    );
    // A directory cannot be read as a file, not even by root.
    fs::remove_file(&passwd).unwrap();
    fs::create_dir(&passwd).unwrap();
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains(passwd.to_str().unwrap()), "{finished:?}");
}

#[test]
fn check_config_checks_all_files_even_if_one_is_bad() {
    let home = Home::new().passwd("bob\n").access("check : bob : maybe\n");
    config(&home, "CleanupAge = long\n");
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    for (name, line) in [("config", 2), ("pyzord.passwd", 1), ("pyzord.access", 1)] {
        let place = format!("{}:{line}: ", home.path(name).display());
        assert!(finished.stderr.contains(&place), "no line about {place}{finished:#?}");
    }
}
