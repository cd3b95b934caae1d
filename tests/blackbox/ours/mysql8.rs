//! Logins at a MySQL 8: other authentication plugins than the default, many clients, and malformed or too short keys.

use std::thread;

use crate::harness::mysql8::{Manner, MySql8, PASSWORD, Plugin, USER};
use crate::harness::{DIGEST, Home, eventually};

/// A homedir whose `DigestDB` names the peer by TCP.
fn home(peer: &MySql8, password: &str, settings: &str) -> Home {
    let password = password.replace(',', "%2C").replace(' ', "%20");
    let place = format!("127.0.0.1:{}/pyzor/digests", peer.port());
    Home::open().config(&format!("Engine = mysql\nDigestDB = mysql://{USER}:{password}@{place}\n{settings}"))
}

/// Checks that a start fails with one line that has these texts, and that no message has a password. (All passwords
/// begin with "secret".)
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
fn account_with_mysql_native_password_logs_in() {
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
fn wrong_password_is_refused_in_one_line_with_every_plugin() {
    for (plugin, switches) in [(Plugin::Caching, true), (Plugin::Native, false), (Plugin::Native, true)] {
        // After a wrong hash the server requests the password itself.
        let peer = MySql8::start(Manner { plugin, switches, is_cached: true, tls: false });
        expect_refusal(&peer, &home(&peer, "secret, but another", ""), &["Access denied"]);
    }
}

#[test]
fn plain_password_is_not_sent_on_request() {
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
fn server_is_used_again_after_malformed_keys() {
    let peer = MySql8::start(Manner::default());
    let server = home(&peer, PASSWORD, "").start();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    peer.set_keyless(true);
    eventually("a refusal", || (server.request("check", &[DIGEST]).code() == 500).then_some(()));
    eventually("a second attempt", || (peer.broken_keys() > 1).then_some(()));
    peer.set_keyless(false);
    eventually("the server to be available", || {
        (server.request("check", &[DIGEST]).code() == 200).then_some(())
    });
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
    assert!(server.stop().success());
    assert_eq!(peer.ways(), [false, true, false]);
}

#[test]
fn password_too_long_for_the_rsa_key_is_refused_at_startup() {
    let peer = MySql8::start(Manner::default());
    let home = home(&peer, &format!("secret{}", "x".repeat(214)), "");
    assert_eq!(home.try_start().err().expect("a server").code(), Some(1), "{}", home.everything_said());
    let said = home.stderr();
    assert!(said.lines().any(|line| line.contains("cannot use the MySQL server")), "{said}");
    assert!(!home.everything_said().contains("secret"));
}
