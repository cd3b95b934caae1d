//! Reloads that the Python server does differently.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use nix::sys::signal::Signal;

use super::assert_warned;
use crate::accounts::{Flow, assert_logged, reload, rights};
use crate::harness::{Account, Home, eventually};

#[test]
fn account_and_its_rights_take_effect_together() {
    let bob = Account::new("bob");
    let server = Home::new().passwd("").access("").start();
    let flow = Flow::default();
    thread::scope(|scope| {
        let coming = scope.spawn(|| flow.codes(&server, Some(&bob)));
        let flowing = flow.wait_for(1);
        let holds = || server.request_as(&bob, "ping", &[]).code() == 200;
        reload(&server, &bob.passwd(), "ping : bob : allow\n", holds);
        drop(flowing);
        let codes = coming.join().unwrap();
        // A 403 would mean an account without its rights.
        assert!([vec![401], vec![401, 200]].contains(&codes), "{codes:?}");
    });
}

#[test]
fn unreadable_file_leaves_both_unchanged() {
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    for unreadable in ["pyzord.access", "pyzord.passwd"] {
        let home = Home::new().passwd(bob.passwd()).access("ping : all : allow\n").unprivileged();
        let server = home.start();
        assert_eq!(rights(&server, Some(&bob)), "ping");
        home.rewrite("pyzord.passwd", carol.passwd());
        home.rewrite("pyzord.access", "pong : all : allow\n");
        fs::set_permissions(home.path(unreadable), Permissions::from_mode(0o000)).unwrap();
        server.signal(Signal::SIGUSR1);
        assert_logged(&home, "ERROR", &[unreadable]);
        assert_eq!(rights(&server, Some(&bob)), "ping");
        assert_eq!(server.request_as(&carol, "ping", &[]).code(), 401);
        // Once it can be read again, both take effect.
        fs::set_permissions(home.path(unreadable), Permissions::from_mode(0o600)).unwrap();
        server.signal(Signal::SIGUSR1);
        eventually("the reload", || (server.request_as(&carol, "pong", &[]).code() == 200).then_some(()));
        assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
    }
}

#[test]
fn directory_instead_of_a_file_leaves_both_unchanged() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping : all : allow\n");
    let server = home.start();
    home.rewrite("pyzord.passwd", "");
    fs::remove_file(home.path("pyzord.access")).unwrap();
    fs::create_dir(home.path("pyzord.access")).unwrap();
    server.signal(Signal::SIGUSR1);
    assert_logged(&home, "ERROR", &["pyzord.access"]);
    assert_eq!(rights(&server, Some(&bob)), "ping");
}

#[test]
fn passwd_file_that_others_may_read_or_write_causes_a_warning() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd());
    let passwd = home.path("pyzord.passwd");
    let advice = format!("chmod o= {}", passwd.display());
    fs::set_permissions(&passwd, Permissions::from_mode(0o644)).unwrap();
    let server = home.start();
    assert_warned(
        &home,
        &[&passwd.display().to_string(), "every user of this machine can read or change the keys", &advice],
    );
    assert!(!home.everything_said().contains(bob.key()));
    for (mode, warnings) in [(0o640, 1), (0o602, 2), (0o660, 2)] {
        fs::set_permissions(&passwd, Permissions::from_mode(mode)).unwrap();
        let reloads = home.log().matches("Accounts: bob").count();
        server.signal(Signal::SIGUSR1);
        eventually("a reload", || (home.log().matches("Accounts: bob").count() > reloads).then_some(()));
        eventually("its warnings", || (home.log().matches(&advice).count() == warnings).then_some(()));
    }
    assert!(server.stop().success());
    assert_eq!(home.log().matches(&advice).count(), 2);
}
