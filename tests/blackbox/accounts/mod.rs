//! Signatures, the passwd and access files, and reloads of these files while the server runs.

mod ours;
mod reloads;
mod rights;
mod signatures;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use crate::harness::{Account, Home, Server, eventually};

const OPERATIONS: [&str; 6] = ["ping", "pong", "check", "info", "report", "whitelist"];

/// Returns the operations that an account may use, in the order of [`OPERATIONS`]; `None` is the anonymous user.
fn rights(server: &Server, account: Option<&Account>) -> String {
    let allowed = OPERATIONS.iter().filter(|operation| {
        // Without a digest nothing is counted.
        let code = match account {
            Some(account) => server.request_as(account, operation, &[]).code(),
            None => server.request(operation, &[]).code(),
        };
        assert!(code == 200 || code == 403, "{code}");
        code == 200
    });
    allowed.copied().collect::<Vec<_>>().join(" ")
}

/// Waits for a line of the operator log at this level with all these parts. A server may answer before it writes its
/// log.
#[track_caller]
fn assert_logged(home: &Home, level: &str, parts: &[&str]) {
    let level = format!(" {level} ");
    let matches = |line: &str| line.contains(&level) && parts.iter().all(|part| line.contains(part));
    eventually(&format!("{level}of {parts:?}"), || home.log().lines().any(matches).then_some(()));
}

/// Stops the server and asserts that it logged no warning.
#[track_caller]
fn assert_no_warning(server: Server) {
    let home = server.home().clone();
    assert!(server.stop().success());
    assert!(!home.log().contains("WARNING"), "{}", home.log());
    assert_eq!(home.stderr(), "");
}

/// Returns a home whose rules depend on the order, and the account to which they apply.
fn ambiguous() -> (Home, Account) {
    let bob = Account::new("bob");
    let access = "ping : bob : deny\nall : all : allow\nwhitelist : bob : deny\n";
    (Home::new().passwd(bob.passwd()).access(access), bob)
}

/// Writes both files, signals the server, and waits until the condition holds.
fn reload(server: &Server, passwd: &str, access: &str, holds: impl Fn() -> bool) {
    server.home().rewrite("pyzord.passwd", passwd);
    server.home().rewrite("pyzord.access", access);
    server.signal(Signal::SIGUSR1);
    eventually("the reload", || holds().then_some(()));
}

/// A stream of requests in the background of a test.
#[derive(Default)]
struct Flow {
    /// The number of clients that have received a reply.
    begun: AtomicUsize,
    /// Whether the clients must stop.
    done: AtomicBool,
}

impl Flow {
    /// Pings without pause until stopped; returns the codes of all replies, without repetitions.
    fn codes(&self, server: &Server, account: Option<&Account>) -> Vec<i64> {
        let mut codes = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            // Panics if there is no reply.
            let reply = match account {
                Some(account) => server.request_as(account, "ping", &[]),
                None => server.request("ping", &[]),
            };
            if codes.is_empty() {
                self.begun.fetch_add(1, Ordering::Relaxed);
            }
            codes.push(reply.code());
        }
        codes.dedup();
        codes
    }

    /// Waits until this many clients have received a reply. They continue until the returned guard is dropped, so that
    /// they also stop if the test fails.
    fn wait_for(&self, clients: usize) -> Flowing<'_> {
        let flowing = Flowing(self);
        eventually("requests to flow", || (self.begun.load(Ordering::Relaxed) == clients).then_some(()));
        flowing
    }
}

/// Stops the requests when dropped.
struct Flowing<'a>(&'a Flow);

impl Drop for Flowing<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}
