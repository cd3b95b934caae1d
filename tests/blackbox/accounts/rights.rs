//! The access file: the operations that accounts may use.

use super::{ambiguous, assert_logged, assert_no_warning, rights};
use crate::harness::{Account, Home, is_ours};

#[test]
fn without_files_anonymous_may_use_everything_but_whitelist() {
    let server = Home::new().start();
    assert_eq!(rights(&server, None), "ping pong check info report");
    let bob = Account::new("bob");
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
    let accounts = "Accounts file does not exist - only the anonymous user will be available.";
    assert_logged(server.home(), "INFO", &[accounts]);
    let default = "Using default ACL: the anonymous user may use the check, report, ping and info commands.";
    assert_logged(server.home(), "INFO", &[default]);
}

#[test]
fn without_an_access_file_accounts_may_do_nothing() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).start();
    assert_eq!(rights(&server, Some(&bob)), "");
    assert_eq!(rights(&server, None), "ping pong check info report");
}

#[test]
fn empty_access_file_denies_everything() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("").start();
    assert_eq!(rights(&server, Some(&bob)), "");
    assert_eq!(rights(&server, None), "");
}

#[test]
fn empty_passwd_file_leaves_only_anonymous() {
    let server = Home::new().passwd("").access("all : all : allow\nping : anonymous : allow\n").start();
    assert_eq!(rights(&server, None), "ping");
    assert_eq!(server.request_as(&Account::new("bob"), "ping", &[]).code(), 401);
}

#[test]
fn default_rule_of_the_manual_is_accepted_as_a_file() {
    let server = Home::new().access("check report ping pong info : anonymous : allow\n").start();
    assert_eq!(rights(&server, None), "ping pong check info report");
}

#[test]
fn all_means_the_six_operations_and_every_account() {
    let (bob, carol) = (Account::new("bob"), Account::new("Carol"));
    let home = Home::new().passwd(bob.passwd() + &carol.passwd()).access("all : all : allow\n");
    let server = home.start();
    let six = "ping pong check info report whitelist";
    assert_eq!(rights(&server, Some(&bob)), six);
    assert_eq!(rights(&server, Some(&carol)), six);
    assert_eq!(rights(&server, None), "");
    // `all` does not include operations that do not exist.
    assert_eq!(server.request_as(&bob, "dance", &[]).code(), 403);
}

#[test]
fn rights_are_lists_split_at_blanks() {
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    let access = "# ping : bob : allow\r\n\r\n\
                  ping\tpong  check:bob carol:allow\r\n\
                  check,report : bob : allow\r\n\
                  INFO : BOB nobody : ALLOW\r\n\
                  report : carol : deny";
    let server = Home::new().passwd(bob.passwd() + &carol.passwd()).access(access).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info");
    assert_eq!(rights(&server, Some(&carol)), "ping pong check");
    assert_eq!(rights(&server, None), "");
    assert_eq!(server.request_as(&bob, "check,report", &[]).code(), 501);
}

#[test]
fn bad_lines_of_the_access_file_are_skipped() {
    let access = "nonsense\nreport : anonymous\ncheck : anonymous : perhaps\ninfo : anonymous : allow # why\n \
                  # indented\npong : anonymous : allow : x\n : anonymous : allow\nwhitelist :  : allow\n\
                  ping : anonymous : allow\n";
    let home = Home::new().access(access);
    let server = home.start();
    assert_eq!(rights(&server, None), "ping");
    for line in
        ["nonsense", "report : anonymous", "check : anonymous : perhaps", "info : anonymous : allow # why"]
    {
        assert_logged(&home, "WARNING", &["Invalid ACL line", line]);
    }
}

#[test]
fn last_matching_line_decides_if_configured() {
    // The Python server always uses this order and has no option for it.
    let (home, bob) = ambiguous();
    let order = if is_ours() { "AccessOrder = last\n" } else { "" };
    let server = home.config(order).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info report");
    assert_no_warning(server);
}

#[test]
fn rules_that_do_not_depend_on_the_order_cause_no_warning() {
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    let access =
        "ping pong : bob : allow\ncheck : carol : allow\nping : bob : allow\nall : anonymous : deny\n";
    let home = Home::new().passwd(bob.passwd() + &carol.passwd()).access(access);
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong");
    assert_eq!(rights(&server, Some(&carol)), "check");
    assert_eq!(rights(&server, None), "");
    assert_no_warning(server);
}
