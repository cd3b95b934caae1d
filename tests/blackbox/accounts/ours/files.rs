//! Warnings about the passwd and access files, and rules by which this server alone reads them.

use nix::sys::signal::Signal;

use super::assert_warned;
use crate::accounts::{ambiguous, assert_no_warning, rights};
use crate::harness::{Account, DIGEST, Home, eventually};

#[test]
fn bad_lines_of_the_passwd_file_are_reported_and_skipped() {
    let bob = Account::new("bob");
    let key = bob.key();
    let mut passwd = format!("# comment\nnonsense\neve : {key} : x\nempty :\n : {key}\n").into_bytes();
    passwd.extend(b"b\xf6b : \xe9\n");
    passwd.extend(bob.passwd().into_bytes());
    let home = Home::new().passwd(passwd).access("ping : all : allow\n");
    let server = home.start();
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 200);
    assert_eq!(server.request_as(&Account::with_key("empty", ""), "ping", &[]).code(), 401);
    for line in 2..=6 {
        assert_warned(&home, &[&format!("pyzord.passwd:{line}:")]);
    }
    server.stop();
    assert!(!home.everything_said().contains("pyzord.passwd:1:"));
    assert!(!home.everything_said().contains("pyzord.passwd:7:"));
}

#[test]
fn accounts_that_differ_only_in_case_cause_a_warning() {
    let (bob, loud) = (Account::new("bob"), Account::new("BOB"));
    let home = Home::new().passwd(bob.passwd() + &loud.passwd()).access("ping : bob : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "ping");
    assert_eq!(rights(&server, Some(&loud)), "ping");
    assert_warned(&home, &["bob", "BOB"]);
}

#[test]
fn keys_are_never_logged() {
    let accounts = ["bob", "carol", "dave", "eve", "mallory"].map(Account::new);
    let [bob, carol, dave, eve, mallory] = &accounts;
    let passwd = format!(
        "{}{}carol : {} : x\n{}\ndave {}\nEVE : {}\n",
        bob.passwd(),
        bob.passwd(),
        carol.key(),
        mallory.key(),
        dave.key(),
        eve.key().to_uppercase()
    );
    let home = Home::new().passwd(passwd).access("ping : bob : allow\n").arguments(&["-d"]);
    let server = home.start();
    assert_eq!(server.request_as(bob, "ping", &[]).code(), 200);
    for account in &accounts {
        server.request_as(account, "check", &[DIGEST]);
    }
    let lines = home.log().lines().count();
    server.signal(Signal::SIGUSR1);
    eventually("log lines of the reload", || (home.log().lines().count() > lines).then_some(()));
    assert!(server.stop().success());
    let said = home.everything_said().to_lowercase();
    for account in &accounts {
        assert!(!said.contains(account.key()), "{}'s key is in\n{said}", account.name());
    }
}

#[test]
fn all_is_a_keyword_inside_a_list_too() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping all : anonymous all : allow\n");
    let server = home.start();
    let six = "ping pong check info report whitelist";
    assert_eq!(rights(&server, Some(&bob)), six);
    assert_eq!(rights(&server, None), six);
    assert_eq!(server.request("dance", &[]).code(), 403);
}

#[test]
fn bad_lines_of_the_access_file_are_reported() {
    let mut access =
        b"\xef\xbb\xbfcheck : anonymous : allow\nnonsense\nreport : anonymous\n# fine\n".to_vec();
    access.extend(b"info : anonymous : perhaps\np\xf6ng : : anonymous : allow\nping : anonymous : allow\n");
    let home = Home::new().access(access);
    let server = home.start();
    // The byte order mark, which some editors write, does not belong to the first line.
    assert_eq!(rights(&server, None), "ping check");
    for line in [2, 3, 5, 6] {
        assert_warned(&home, &[&format!("pyzord.access:{line}:")]);
    }
    server.stop();
    for line in [1, 4, 7] {
        assert!(!home.everything_said().contains(&format!("pyzord.access:{line}:")));
    }
}

#[test]
fn names_in_the_access_file_match_in_any_case() {
    let (upper, lower) = (Account::new("Upper"), Account::new("lower"));
    let home = Home::new()
        .passwd(upper.passwd() + &lower.passwd())
        .access("ping : upper : allow\npong : Upper : allow\ncheck : LOWER : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, Some(&upper)), "ping pong");
    assert_eq!(rights(&server, Some(&lower)), "check");
    assert_warned(&home, &["upper", "Upper"]);
    assert_warned(&home, &["LOWER", "lower"]);
}

#[test]
fn first_matching_line_decides_and_differences_cause_warnings() {
    let (home, bob) = ambiguous();
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "pong check info report whitelist");
    // Each warning names the lines, the user and the operation, and whether the rights are wider.
    assert_warned(&home, &["ping", "bob", "pyzord.access:1", "2"]);
    assert_warned(&home, &["whitelist", "bob", "pyzord.access:2", "3"]);
    server.stop();
    for line in home.log().lines().filter(|line| line.contains(" WARNING ")) {
        let wider = line.to_lowercase().contains("wider");
        assert_eq!(wider, line.contains("whitelist"), "{line}");
    }
}

#[test]
fn the_order_can_be_set_on_the_command_line() {
    let (home, bob) = ambiguous();
    let server = home.arguments(&["--access-order", "last"]).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info report");
}

#[test]
fn chosen_order_causes_no_warning() {
    let (home, bob) = ambiguous();
    let server = home.config("AccessOrder = first\n").start();
    assert_eq!(rights(&server, Some(&bob)), "pong check info report whitelist");
    assert_no_warning(server);
}
