//! What `--check-config` reports about forwarding is what a start reports, or what a server does.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{Account, Finished, Home, eventually, finish};

/// A homedir that forwards to a port on which no server is.
fn home() -> Home {
    Home::open().forwarding_to(&["127.0.0.1:9"])
}

fn check(home: &Home) -> Finished {
    let mut command = home.command();
    command.arg("--check-config");
    finish(command)
}

/// Asserts that `--check-config` exits with this code and prints one line of this kind, which contains the text.
#[track_caller]
fn expect_check(home: &Home, code: i32, kind: &str, text: &str) {
    let finished = check(home);
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| !line.contains(": note: ")).collect();
    let is_expected =
        lines.len() == 1 && lines[0].starts_with(&format!("pyzord: {kind}: ")) && lines[0].contains(text);
    assert!(finished.code == Some(code) && is_expected, "expected {kind}: {text}; found {finished:#?}");
}

#[test]
fn malformed_origin_is_replaced_with_a_warning() {
    for text in ["", "0123456789abcdef\n"] {
        let home = home().file("pyzord.origin", text);
        expect_check(&home, 0, "warning", "this is not the origin of forwarded reports");
        assert_eq!(home.read("pyzord.origin"), text);
        assert!(home.start().stop().success());
        let log = home.log();
        let warnings =
            log.lines().filter(|line| line.contains("this is not the origin of forwarded reports"));
        assert!(
            warnings.clone().count() == 1 && warnings.clone().all(|line| line.contains(" WARNING ")),
            "{log}"
        );
        let written = home.read("pyzord.origin");
        assert_ne!(written, text);
        assert!(home.start().stop().success());
        assert_eq!(home.read("pyzord.origin"), written);
        assert_eq!(home.log().matches("this is not the origin").count(), 1);
    }
}

#[test]
fn origin_that_is_no_regular_file_ends_the_start_at_once() {
    let refused = |home: &Home, reason: &str| {
        expect_check(home, 1, "error", reason);
        assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1));
        assert!(home.log().contains(reason), "{}", home.everything_said());
    };
    let pipe = home();
    mkfifo(&pipe.directory().join("pyzord.origin"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    refused(&pipe, "pyzord.origin: it is not a regular file");
    let directory = home();
    fs::create_dir(directory.directory().join("pyzord.origin")).unwrap();
    refused(&directory, "pyzord.origin: it is not a regular file");
    // A setting takes the place of the file.
    let home = directory.config("ForwardOrigin = 0123456789abcdef\n");
    assert_eq!(check(&home).code, Some(0));
    assert!(home.start().stop().success());
}

#[test]
fn address_of_the_server_itself_is_reported() {
    for (listening, target) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), ("::", "[::1]")] {
        let home = Home::open().address(listening);
        let own = format!("{target}:{}", home.port());
        let home = home.forwarding_to(&["127.0.0.1:9", "localhost:9", &own]);
        expect_check(&home, 0, "warning", &format!("{own} is this server itself"));
    }
    let home = Home::open().address("127.0.0.1");
    let other = format!("127.0.0.2:{}", home.port());
    let finished = check(&home.forwarding_to(&[&other]));
    assert!(finished.code == Some(0) && !finished.stderr.contains("warning"), "{finished:#?}");
}

#[test]
fn link_to_missing_accounts_is_an_error() {
    let home = home();
    symlink("missing", home.remotes().join("accounts")).unwrap();
    expect_check(&home, 1, "error", "accounts is a symbolic link to a file that does not exist");
}

#[test]
fn senders_that_cannot_be_meant_are_reported() {
    let mistyped = home().config("ForwardFrom = bob 192.168.1\n");
    expect_check(&mistyped, 1, "error", "ForwardFrom: '192.168.1' is not a network");
    let strangers = home().config("ForwardFrom = anonymous\n");
    expect_check(
        &strangers,
        0,
        "warning",
        "ForwardFrom: anonymous may include servers that this one forwards to",
    );
    let missing = home().config("ForwardFrom = bob mx1.example.org\n").passwd(Account::new("bob").passwd());
    let text = "ForwardFrom: there is no account 'mx1.example.org' in ";
    expect_check(&missing, 0, "warning", text);
    let server = missing.start();
    assert_eq!(missing.log().matches(text).count(), 1, "{}", missing.log());
    // An account that is removed later.
    fs::remove_file(missing.directory().join("pyzord.passwd")).unwrap();
    server.signal(Signal::SIGUSR1);
    let text = "ForwardFrom: there is no account 'bob' in ";
    eventually("the warning", || missing.log().contains(text).then_some(()));
    assert!(server.stop().success());
}
