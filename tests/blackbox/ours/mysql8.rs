//! Logins at a MySQL 8 whose accounts differ from what it greets with, that clients come to in crowds, or
//! that wants more than a client may tell.

use std::thread;

use crate::harness::mysql8::{Manner, MySql8, PASSWORD, Plugin, USER};
use crate::harness::{DIGEST, Home, eventually};

/// A homedir that leads to the peer by TCP.
fn home(peer: &MySql8, password: &str, settings: &str) -> Home {
    let password = password.replace(',', "%2C").replace(' ', "%20");
    let place = format!("127.0.0.1:{}/pyzor/digests", peer.port());
    Home::open().config(&format!("Engine = mysql\nDigestDB = mysql://{USER}:{password}@{place}\n{settings}"))
}

/// Expects that no server starts, for one reason that has these texts in it, and that nobody is told a
/// password. All passwords here begin alike.
#[track_caller]
fn expect_refusal(peer: &MySql8, home: &Home, texts: &[&str]) {
    assert_eq!(home.try_start().err().expect("a server").code(), Some(1), "{}", home.everything_said());
    let stderr = home.stderr();
    let all = texts.iter().all(|text| stderr.contains(text));
    assert!(stderr.lines().count() == 1 && all, "expected one line with {texts:?}: {stderr}");
    assert!(!home.everything_said().contains("secret"), "{}", home.everything_said());
    assert_eq!(peer.ways(), [false; 3]);
}

#[test]
fn an_account_of_the_older_plugin_is_let_in() {
    for switches in [false, true] {
        let peer = MySql8::start(Manner { plugin: Plugin::Native, switches, ..Manner::default() });
        let server = home(&peer, PASSWORD, "").start();
        assert_eq!(server.request("report", &[DIGEST]).code(), 200);
        assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
        assert!(server.stop().success());
        assert_eq!(peer.ways(), [true, false, false]);
    }
}

#[test]
fn another_password_is_refused_in_one_line_whatever_the_plugin() {
    for (plugin, switches) in [(Plugin::Caching, true), (Plugin::Native, false), (Plugin::Native, true)] {
        // A wrong proof leads on to the password itself.
        let peer = MySql8::start(Manner { plugin, switches, is_cached: true, tls: false });
        expect_refusal(&peer, &home(&peer, "secret, but another", ""), &["Access denied"]);
    }
}

#[test]
fn a_plain_password_is_not_given_to_who_just_asks_for_it() {
    let peer = MySql8::start(Manner { plugin: Plugin::Clear, ..Manner::default() });
    expect_refusal(&peer, &home(&peer, PASSWORD, ""), &["mysql_clear_password"]);
}

#[test]
fn reports_of_many_clients_are_all_counted() {
    let peer = MySql8::start(Manner::default());
    let server = home(&peer, PASSWORD, "DBConnections = 4\n").start();
    let other = "b".repeat(40);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
                    assert_eq!(server.request("whitelist", &[DIGEST]).code(), 200);
                }
            });
        }
    });
    assert_eq!(server.request("check", &[DIGEST]).counts(), (200, 200));
    assert_eq!(server.request("check", &[&other]).counts(), (200, 0));
    assert!(server.stop().success());
    let rows = peer.mariadb().sql("SELECT digest, r_count, wl_count FROM pyzor.digests ORDER BY digest");
    assert_eq!(rows, format!("{other}\t200\t0\n{DIGEST}\t200\t200\n"));
    assert_eq!(peer.ways(), [false, true, false]);
}

#[test]
fn a_server_that_has_had_no_key_for_a_while_is_found_again() {
    let peer = MySql8::start(Manner::default());
    let server = home(&peer, PASSWORD, "").start();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    peer.set_keyless(true);
    eventually("a refusal", || (server.request("check", &[DIGEST]).code() == 500).then_some(()));
    eventually("a second attempt", || (peer.broken_keys() > 1).then_some(()));
    peer.set_keyless(false);
    eventually("the server's return", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
    assert!(server.stop().success());
    assert_eq!(peer.ways(), [false, true, false]);
}

#[test]
fn a_password_too_long_for_the_key_is_refused_at_the_start() {
    let peer = MySql8::start(Manner::default());
    let home = home(&peer, &format!("secret{}", "x".repeat(214)), "");
    assert_eq!(home.try_start().err().expect("a server").code(), Some(1), "{}", home.everything_said());
    let said = home.stderr();
    assert!(said.lines().any(|line| line.contains("cannot use the MySQL server")), "{said}");
    assert!(!home.everything_said().contains("secret"));
}
