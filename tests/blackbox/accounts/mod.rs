//! Who may do what: signatures, the passwd and access files, and reading them again while serving.

mod ours;
mod reloads;
mod rights;
mod signatures;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use crate::harness::{Account, Home, Server, eventually};

const OPERATIONS: [&str; 6] = ["ping", "pong", "check", "info", "report", "whitelist"];

/// The operations that somebody may do, in the order of [`OPERATIONS`]; `None` is the anonymous user.
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

/// Waits for a line of the operator log at this level with all these parts. A server need not write
/// its log before it answers, only before it ends.
#[track_caller]
fn assert_logged(home: &Home, level: &str, parts: &[&str]) {
    let level = format!(" {level} ");
    let told = |line: &str| line.contains(&level) && parts.iter().all(|part| line.contains(part));
    eventually(&format!("{level}of {parts:?}"), || home.log().lines().any(told).then_some(()));
}

/// Stops the server and asserts that it had nothing to warn of.
#[track_caller]
fn assert_no_warning(server: Server) {
    let home = server.home().clone();
    assert!(server.stop().success());
    assert!(!home.log().contains("WARNING"), "{}", home.log());
    assert_eq!(home.stderr(), "");
}

/// Rules that the two orders read differently, and an account they are about.
fn ambiguous() -> (Home, Account) {
    let bob = Account::new("bob");
    let access = "ping : bob : deny\nall : all : allow\nwhitelist : bob : deny\n";
    (Home::new().passwd(bob.passwd()).access(access), bob)
}

// Reading them again.

/// Writes both files, tells the server, and waits until this holds.
fn reload(server: &Server, passwd: &str, access: &str, holds: impl Fn() -> bool) {
    server.home().rewrite("pyzord.passwd", passwd);
    server.home().rewrite("pyzord.access", access);
    server.signal(Signal::SIGUSR1);
    eventually("the reload", || holds().then_some(()));
}

/// Requests that flow while the test does something else.
#[derive(Default)]
struct Flow {
    /// How many askers have had a reply.
    begun: AtomicUsize,
    /// Whether the askers are to stop.
    done: AtomicBool,
}

impl Flow {
    /// Pings as fast as replies come, until told to stop; returns the codes of all replies, each run of
    /// equal ones once.
    fn codes(&self, server: &Server, account: Option<&Account>) -> Vec<i64> {
        let mut codes = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            // A request that gets no reply fails here.
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

    /// Waits until so many askers have had a reply. They go on as long as what this returns lives, so
    /// that they end with a test that fails, too.
    fn wait_for(&self, askers: usize) -> Flowing<'_> {
        let flowing = Flowing(self);
        eventually("requests to flow", || (self.begun.load(Ordering::Relaxed) == askers).then_some(()));
        flowing
    }
}

/// While this lives, requests flow.
struct Flowing<'a>(&'a Flow);

impl Drop for Flowing<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}
