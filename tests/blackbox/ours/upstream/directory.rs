//! The directory that names the servers to ask: what a start and `--check-config` say.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Account, Home, Remote, digest};
use crate::ours::upstream::{PATIENT, checked, clean};

fn home(servers: &[&str]) -> Home {
    Home::open().asking(servers)
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
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("UpstreamHomeDir")).collect();
    assert!(lines.len() == 1 && lines[0].contains(problem), "{log}");
    let (code, lines) = checked(home);
    let expected = format!("error: UpstreamHomeDir: {problem}");
    assert!(code == Some(1) && lines.iter().any(|line| line.starts_with(&expected)), "{lines:#?}");
}

#[test]
fn directory_without_a_usable_server_ends_the_start() {
    let without = home(&[]);
    fs::remove_file(without.upstream_directory().join("servers")).unwrap();
    expect_refusal(&without, "the servers file DIR/servers does not exist: write it");
    let missing = home(&[]);
    fs::remove_dir_all(missing.upstream_directory()).unwrap();
    expect_refusal(&missing, "the directory DIR does not exist: ");
    let file = home(&[]);
    fs::remove_dir_all(file.upstream_directory()).unwrap();
    fs::write(file.upstream_directory(), "").unwrap();
    expect_refusal(&file, "DIR is not a directory: ");
    expect_refusal(&home(&["# public.pyzor.org:24441"]), "DIR/servers names no server: ");
    expect_refusal(&home(&["public.pyzor.org:0"]), "DIR/servers names no server: ");
    let unreadable = home(&["127.0.0.1:1"]);
    fs::create_dir(unreadable.upstream_directory().join("accounts")).unwrap();
    expect_refusal(&unreadable, "cannot read DIR/accounts: it is not a regular file");
}

#[test]
fn start_says_who_is_asked_and_names_every_bad_line() {
    let bob = Account::new("bob");
    let home = home(&["# all", "x y:1", "127.0.0.1:9", "[::1]:9", "127.0.0.1:9"]);
    let accounts = format!(
        "127.0.0.1 : 9 : bob\n{}localhost : 9 : eve : ,{}\n",
        bob.client_line("127.0.0.1:9"),
        Account::new("eve").key(),
    );
    home.upstream_file("accounts", &accounts);
    let accounts = home.upstream_directory().join("accounts");
    fs::set_permissions(accounts, Permissions::from_mode(0o644)).unwrap();
    let warnings = [
        "DIR/servers:2: not a server, skipped: ",
        "DIR/servers:5: the same server as on line 3, skipped",
        "DIR/accounts:1: not an account, skipped: ",
        "every user of this machine can read or change the keys in DIR/accounts: chmod o= DIR/accounts",
        "DIR/accounts:3: the account 'eve' is not used, ",
    ];
    let (code, lines) = checked(&home);
    assert_eq!(code, Some(0), "{lines:#?}");
    for warning in warnings {
        let expected = format!("warning: {warning}");
        assert!(lines.iter().any(|line| line.starts_with(&expected)), "{warning} is missing in {lines:#?}");
    }
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("warning: ")).count(),
        warnings.len(),
        "{lines:#?}"
    );
    let servers = "127.0.0.1:9 (as bob), [::1]:9 (anonymous)";
    assert!(lines.iter().any(|line| line.starts_with("note: ") && line.contains(servers)), "{lines:#?}");
    let server = home.start();
    let log = clean(&home, &home.log());
    for expected in warnings.into_iter().chain([servers]) {
        assert!(log.contains(expected), "{expected} is missing in {log}");
    }
    assert!(server.stop().success());
    for name in ["bob", "eve"] {
        assert!(!home.everything_said().contains(Account::new(name).key()), "{}", home.everything_said());
    }
}

#[test]
fn values_out_of_range_are_errors_with_file_and_line() {
    for (setting, name) in [
        ("UpstreamTimeout = 0", "UpstreamTimeout"),
        ("UpstreamTimeout = soon", "UpstreamTimeout"),
        ("UpstreamCache = -1", "UpstreamCache"),
        ("UpstreamCacheAge = 0", "UpstreamCacheAge"),
        ("UpstreamMissAge = x", "UpstreamMissAge"),
        ("UpstreamRate = 0", "UpstreamRate"),
    ] {
        let home = Home::open().config(&format!("{setting}\n"));
        let (code, lines) = checked(&home);
        let is_named =
            |line: &String| line.starts_with("error: ") && line.contains("config:4") && line.contains(name);
        assert!(code == Some(1) && lines.iter().any(is_named), "{setting}: {lines:#?}");
    }
}

#[test]
fn options_without_the_directory_are_noted() {
    let home = Home::open().config("UpstreamTimeout = 2\n");
    let (code, lines) = checked(&home);
    assert!(code == Some(0) && lines.iter().any(|line| line.contains("UpstreamHomeDir")), "{lines:#?}");
}

#[test]
fn one_directory_may_name_the_servers_to_forward_to_and_to_ask() {
    let bob = Account::new("bob");
    let remote = Remote::counting(7, 2);
    let home = Home::open().config(&format!("{PATIENT}ForwardDelay = 0\n")).asking(&[remote.name()]);
    let home = home.asking_as(&remote.name(), &bob);
    let directory = home.upstream_directory().display().to_string();
    let home = home.arguments(&["--forward-client-homedir", &directory]);
    let server = home.start();
    assert_eq!(server.request("check", &[&digest(1)]).counts(), (7, 2));
    assert_eq!(server.request("report", &[&digest(2)]).code(), 200);
    home.forwarding_settled(&remote.name(), 1);
    assert_eq!(remote.counts("check"), [(digest(1), 1)].into());
    assert_eq!(remote.counts("report"), [(digest(2), 1)].into());
    remote.requests().iter().for_each(|request| request.expect_signed(&bob));
}
