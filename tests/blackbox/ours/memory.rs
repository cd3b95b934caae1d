//! A server under valgrind, which also checks the C library of gdbm.

use std::fs::{self, OpenOptions};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Caller, Home, Ledger, Server, digest};

/// The time limit of each step. Valgrind slows the server down by a factor of about 30.
const VALGRIND_PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn valgrind_finds_no_memory_error_in_a_gdbm_server() {
    const OLD: u32 = 300;
    // Confinement would break valgrind.
    let settings = "CleanupAge = 86400\nConfine = False\n";
    let home = Home::open().config(settings);
    let long_ago = "1,1,2011-01-01 00:00:00,2011-01-01 00:00:00,0,2011-01-01 00:00:00,2011-01-01 00:00:00";
    let old: Vec<_> = (0..OLD).map(|number| (digest(number), long_ago)).collect();
    home.database().write(&old);

    let mut ledger = Ledger::default();
    let mut server = Server::start(&home, under_valgrind(&home));
    let mut caller = serving(&home, &mut server);
    // Requests of every operation that reads or writes, during an expiry.
    for number in 1000..1100 {
        report(&mut caller, &mut ledger, &digest(number));
    }
    let two = [digest(1000), digest(2000)];
    assert_eq!(caller.ask("report", &[&two[0], &two[1]], VALGRIND_PATIENCE).unwrap().code(), 200);
    two.iter().for_each(|digest| ledger.acknowledge(digest));
    for operation in ["check", "info", "whitelist"] {
        for digest in [digest(1000), digest(3000)] {
            assert_eq!(
                caller.ask(operation, &[&digest], VALGRIND_PATIENCE).unwrap().code(),
                200,
                "{operation}"
            );
        }
    }
    // A slow expiry may miss records that move to another bucket; the next one removes them.
    until("the expiry", || home.log().contains(" INFO Expiry: "));
    server.process().signal(Signal::SIGKILL);
    drop(server);

    // A kill can leave the file like this, which is repaired at the start.
    let file = OpenOptions::new().write(true).open(home.path("pyzord.db")).unwrap();
    file.set_len(file.metadata().unwrap().len() + 4096).unwrap();
    let mut server = Server::start(&home, under_valgrind(&home));
    let mut caller = serving(&home, &mut server);
    for number in 1000..1050 {
        report(&mut caller, &mut ledger, &digest(number));
    }
    server.process().signal(Signal::SIGHUP);
    report(&mut caller, &mut ledger, &digest(1001));
    server.process().signal(Signal::SIGTERM);
    let status = ended(server);

    // The killed server has left a log as well.
    let mut found = String::new();
    let mut seen = 0;
    for entry in fs::read_dir(home.parent()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with("valgrind.") {
            found += &fs::read_to_string(entry.path()).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 2, "a log of each server");
    assert!(status == Some(0) && found.is_empty(), "{status:?}\n{found}");
    let mut stored = home.stored();
    // Whitelisted, not reported.
    assert_eq!(stored.remove(&digest(3000)), Some(0));
    (0..OLD).for_each(|number| _ = stored.remove(&digest(number)));
    ledger.compare(&stored);
}

/// Returns the command of a server in the foreground under valgrind, which writes only its findings to a file.
fn under_valgrind(home: &Home) -> Command {
    let options = format!(
        "--quiet --fair-sched=yes --error-exitcode=9 --leak-check=full --suppressions={}/tests/valgrind.supp \
         --log-file={}/valgrind.%p",
        env!("CARGO_MANIFEST_DIR"),
        home.parent().display()
    );
    home.under(&format!("exec valgrind {options} \"$@\""), false)
}

fn serving(home: &Home, server: &mut Server) -> Caller {
    let mut caller = home.caller();
    until("the start under valgrind, which tests/setup.sh installs", || {
        assert!(server.is_running(), "{}", home.everything_said());
        caller.ask("ping", &[], Duration::from_secs(1)).is_some()
    });
    caller
}

#[track_caller]
fn report(caller: &mut Caller, ledger: &mut Ledger, digest: &str) {
    let reply = caller.ask("report", &[digest], VALGRIND_PATIENCE);
    assert_eq!(reply.as_ref().unwrap().code(), 200);
    ledger.enter(digest, reply.as_ref());
}

fn ended(mut server: Server) -> Option<i32> {
    until("the end of the server", || !server.is_running());
    server.ended().code()
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + VALGRIND_PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
