//! The homedir of a client that names the servers: how it is read, and what a start, a reload and `--check-config` say.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::harness::{Account, Home, digest, eventually, finish};

/// A homedir that forwards to these lines of a servers file.
fn home(servers: &[&str]) -> Home {
    Home::open().forwarding_to(servers)
}

/// Returns the text, in which DIR stands for the client's directory.
fn clean(home: &Home, text: &str) -> String {
    text.replace(home.remotes().to_str().unwrap(), "DIR")
}

/// Asserts that `--check-config` exits with this code and prints lines that begin so.
#[track_caller]
fn expect_check(home: &Home, code: i32, lines: &[&str]) {
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    let text = clean(home, &finished.stderr);
    let found: Vec<&str> = text.lines().map(|line| line.strip_prefix("pyzord: ").unwrap()).collect();
    let is_same =
        found.len() == lines.len() && found.iter().zip(lines).all(|(found, line)| found.starts_with(line));
    assert!(finished.code == Some(code) && is_same, "expected {code}, {lines:#?}\nfound {finished:#?}");
}

/// Asserts that a start exits with 1 and one line of this text, and that `--check-config` reports the same.
#[track_caller]
fn expect_refusal(home: &Home, problem: &str) {
    assert_eq!(
        home.try_start().err().and_then(|status| status.code()),
        Some(1),
        "{}",
        home.everything_said()
    );
    let log = clean(home, &home.log());
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ForwardClientHomeDir")).collect();
    assert!(lines.len() == 1 && lines[0].contains(problem), "{log}");
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    let expected = format!("pyzord: error: ForwardClientHomeDir: {problem}");
    assert!(clean(home, &finished.stderr).lines().any(|line| line.starts_with(&expected)), "{finished:#?}");
}

#[test]
fn directory_without_a_usable_server_ends_the_start() {
    let without = home(&[]);
    fs::remove_file(without.remotes().join("servers")).unwrap();
    expect_refusal(&without, "the servers file DIR/servers does not exist: write it");
    let missing = home(&[]);
    fs::remove_dir_all(missing.remotes()).unwrap();
    expect_refusal(&missing, "the directory DIR does not exist: ");
    let file = home(&[]);
    fs::remove_dir_all(file.remotes()).unwrap();
    fs::write(file.remotes(), "").unwrap();
    expect_refusal(&file, "DIR is not a directory: ");
    expect_refusal(&home(&["# public.pyzor.org:24441"]), "DIR/servers names no server: ");
    expect_refusal(&home(&["public.pyzor.org:0"]), "DIR/servers names no server: ");
    let unreadable = home(&["127.0.0.1:1"]);
    fs::create_dir(unreadable.remotes().join("accounts")).unwrap();
    expect_refusal(&unreadable, "cannot read DIR/accounts: it is not a regular file");
    let late = home(&["127.0.0.1:1"]);
    late.remotes_file("config", "[client]\nTimeout = soon\n");
    expect_refusal(&late, "DIR/config:2: Timeout: 'soon' is not a whole number");
}

#[test]
fn start_says_where_to_and_as_whom_and_names_every_bad_line() {
    let bob = Account::new("bob");
    let home = home(&["# all", "x y:1", "127.0.0.1:9 # mine", "[::1]:9", "::1:5", "127.0.0.1:9"]);
    let accounts = format!(
        "127.0.0.1 : 9 : bob\n{}localhost : 9 : eve : ,{}\n{} : 9 : carl : x\n",
        bob.client_line("127.0.0.1:9"),
        Account::new("eve").key(),
        Account::new("carl").key(),
    );
    home.remotes_file("accounts", &accounts);
    fs::set_permissions(home.remotes().join("accounts"), Permissions::from_mode(0o644)).unwrap();
    home.remotes_file("config", "[client]\nLogFile = client.log\nReportThreshold = abc\n");
    let warnings = [
        "DIR/config:2: LogFile: ignored",
        "DIR/servers:2: not a server, skipped: ",
        "DIR/servers:5: not a server, skipped: more than one colon",
        "DIR/servers:6: the same server as on line 3, skipped",
        "DIR/accounts:1: not an account, skipped: ",
        "DIR/accounts:4: not an account, skipped: ",
        "every user of this machine can read or change the keys in DIR/accounts: chmod o= DIR/accounts",
        "DIR/accounts:3: the account 'eve' is not used, ",
    ];
    let mut lines: Vec<String> = warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    lines.push("note: forwarding to 127.0.0.1:9 (as bob), [::1]:9 (anonymous)".to_owned());
    expect_check(&home, 0, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let server = home.start();
    let log = clean(&home, &home.log());
    for expected in warnings {
        assert!(log.contains(expected), "{expected} is missing in {log}");
    }
    assert!(
        log.contains("Forwarding reports and whitelistings to 127.0.0.1:9 (as bob), [::1]:9 (anonymous)"),
        "{log}"
    );
    assert!(server.stop().success());
    for name in ["bob", "eve", "carl"] {
        assert!(!home.everything_said().contains(Account::new(name).key()), "{}", home.everything_said());
    }
}

#[test]
fn reload_keeps_the_servers_if_the_directory_cannot_be_used() {
    let home = home(&["127.0.0.1:9"]);
    let server = home.start();
    for (round, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        home.remotes_file("servers", "127.0.0.1:nine\n");
        server.signal(signal);
        eventually("the refusal", || {
            let log = clean(&home, &home.log());
            let refusals = log.matches("ForwardClientHomeDir: DIR/servers names no server: ").count();
            (refusals > round).then_some(())
        });
        assert!(home.find_forwarding("127.0.0.1:9").is_some());
    }
    assert_eq!(server.request("report", &[&digest(1)]).code(), 200);
    assert!(server.stop().success());
}

#[test]
fn homedir_of_the_server_may_be_that_of_the_client() {
    let home = Home::open().file("servers", "127.0.0.1:9\n").file(
        "config",
        "[client]\nServersFile = servers\nTimeout = 3\n[server]\nLogFile = pyzord.log\nUsageLogFile = usage.log\n",
    );
    let directory = home.directory().display().to_string();
    let home = home.arguments(&["--forward-client-homedir", &directory]);
    let server = home.start();
    assert!(home.find_forwarding("127.0.0.1:9").is_some());
    assert!(server.stop().success());
}
