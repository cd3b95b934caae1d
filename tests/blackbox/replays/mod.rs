//! Copies of signed requests, with and without `ReplayGuard`.

mod ours;

use crate::harness::{Account, DIGEST, Home, Server, unix_time};

fn home(bob: &Account, settings: &str) -> Home {
    let access = "all : bob : allow\ncheck report : anonymous : allow\n";
    Home::new().passwd(bob.passwd()).access(access).config(settings)
}

/// Returns a signed request on the digest. Different threads make different requests.
fn signed(bob: &Account, operation: &str, thread: u32) -> Vec<u8> {
    let headers = format!("Op: {operation}\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n");
    bob.sign(&headers, unix_time())
}

fn counts(server: &Server) -> (i64, i64) {
    server.request("check", &[DIGEST]).counts()
}

#[test]
fn copy_is_counted_again_without_the_guard() {
    let bob = Account::new("bob");
    let server = home(&bob, "").start();
    let report = signed(&bob, "report", 1);
    assert_eq!(server.ask(&report), server.ask(&report));
    assert_eq!(counts(&server), (2, 0));
}
