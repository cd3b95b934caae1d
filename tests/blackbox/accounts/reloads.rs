//! Reloads of accounts and rights while a server runs.

use std::fs;
use std::thread;

use nix::sys::signal::Signal;

use super::{Flow, assert_logged, reload, rights};
use crate::harness::{Account, Home, eventually, is_ours};

#[test]
fn requests_during_changes_of_accounts_are_all_answered() {
    let [bob, carol, dave] = ["bob", "carol", "dave"].map(Account::new);
    let before = bob.passwd() + &carol.passwd();
    let after = carol.passwd() + &dave.passwd();
    let access = "ping : all anonymous carol dave bob : allow\n";
    let server = Home::new().passwd(&before).access(access).start();
    let flow = Flow::default();

    thread::scope(|scope| {
        let leaving = scope.spawn(|| flow.codes(&server, Some(&bob)));
        let staying = scope.spawn(|| flow.codes(&server, Some(&carol)));
        let coming = scope.spawn(|| flow.codes(&server, Some(&dave)));
        let anonymous = scope.spawn(|| flow.codes(&server, None));
        let flowing = flow.wait_for(4);
        // Reloads of unchanged files change nothing.
        for _ in 0..20 {
            server.signal(Signal::SIGUSR1);
            assert_eq!(server.request_as(&carol, "ping", &[]).code(), 200);
        }
        reload(&server, &after, access, || server.request_as(&dave, "ping", &[]).code() == 200);
        assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
        assert_eq!(server.request_as(&carol, "ping", &[]).code(), 200);
        drop(flowing);

        assert!([vec![200], vec![200, 401]].contains(&leaving.join().unwrap()));
        assert_eq!(staying.join().unwrap(), [200]);
        assert!([vec![401], vec![401, 200]].contains(&coming.join().unwrap()));
        assert_eq!(anonymous.join().unwrap(), [200]);
    });
}

#[test]
fn permissions_change_at_a_reload() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("ping : bob : allow\n").start();
    assert_eq!(rights(&server, Some(&bob)), "ping");
    for (access, wanted) in
        [("pong : bob : allow\n", "pong"), ("", ""), ("nonsense\nping : bob : allow\n", "ping")]
    {
        reload(&server, &bob.passwd(), access, || rights(&server, Some(&bob)) == wanted);
    }
    assert_logged(server.home(), "INFO", &["SIGUSR1 received. Reloading configuration."]);
}

#[test]
fn files_deleted_before_a_reload_are_replaced_by_the_default() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping : bob : allow\nwhitelist : anonymous : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, None), "whitelist");
    fs::remove_file(home.path("pyzord.access")).unwrap();
    server.signal(Signal::SIGUSR1);
    let default = "ping pong check info report";
    eventually("the default rules", || (rights(&server, None) == default).then_some(()));
    assert_eq!(rights(&server, Some(&bob)), "");
    fs::remove_file(home.path("pyzord.passwd")).unwrap();
    server.signal(Signal::SIGUSR1);
    eventually("no account", || (server.request_as(&bob, "ping", &[]).code() == 401).then_some(()));
    assert_eq!(rights(&server, None), default);
    if is_ours() {
        assert_logged(&home, "WARNING", &["pyzord.access", "no longer exists"]);
        assert_logged(&home, "WARNING", &["pyzord.passwd", "no longer exists"]);
    }
}
