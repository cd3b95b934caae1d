//! Signals without a meaning to the server, and the file size limit, which causes a signal.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Caller, DIGEST, Home, Ledger, Process, Server, digest, eventually, finish};

/// Signals of signal(7) whose default action ends a process, and that have no meaning to the server.
const MEANINGLESS: [Signal; 9] = [
    Signal::SIGPIPE,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
    Signal::SIGXFSZ,
];
/// Signals that end the server like any other process: faults, requested core dumps, and the CPU time limit.
const DEADLY: [Signal; 9] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGQUIT,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGXCPU,
];

/// Returns a signal mask from the status of a process.
fn mask(daemon: Process, field: &str) -> u64 {
    mask_in(&fs::read_to_string(daemon.proc("status")).unwrap(), field)
}

fn mask_in(status: &str, field: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap();
    u64::from_str_radix(value, 16).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

#[test]
fn signals_without_meaning_are_ignored() {
    let home = Home::open();
    let daemon = home.detach();
    let mut caller = home.caller();
    for signal in MEANINGLESS {
        daemon.signal(signal);
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200, "{signal}");
    }
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        let kill = Command::new("kill").args([&format!("-{number}"), &daemon.pid().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200, "{number}");
    }
    let (ignored, caught) = (mask(daemon, "SigIgn"), mask(daemon, "SigCgt"));
    // Background processes of a shell inherit some ignored signals.
    let inherited = mask_in(&fs::read_to_string("/proc/self/status").unwrap(), "SigIgn");
    for signal in DEADLY {
        assert_eq!(ignored & bit(signal), inherited & bit(signal), "{signal}");
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        assert_ne!(caught & bit(signal), 0, "{signal}");
    }
    daemon.stop();
}

/// Reports new digests, 100 per request, until one is refused or the maximum is reached.
fn report_until_refused(caller: &mut Caller, ledger: &mut Ledger, most: u32) -> bool {
    for first in (0..most).step_by(100) {
        let digests: Vec<String> = (first..first + 100).map(digest).collect();
        let names: Vec<&str> = digests.iter().map(String::as_str).collect();
        let code = caller.answered("report", &names).code();
        assert!([200, 500].contains(&code), "{code}");
        for name in names {
            // A refused request may have stored some of its digests.
            if code == 200 { ledger.acknowledge(name) } else { ledger.enter(name, None) }
        }
        if code == 500 {
            return true;
        }
    }
    false
}

#[test]
fn file_size_limit_refuses_reports_only() {
    let home = Home::open();
    let script = "ulimit -f 4096; exec \"$@\"";
    let mut ledger = Ledger::default();
    let mut server = Server::start(&home, home.under(script, false));
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert!(report_until_refused(&mut caller, &mut ledger, 100_000), "the limit of 4 MiB was not reached");
    assert!(ledger.acknowledged() > 1000, "{}", ledger.acknowledged());
    assert_eq!(caller.count(&digest(0)), 1);
    assert!(server.is_running());
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(home.log().contains("no room for the database"), "{}", home.log());
    ledger.compare(&home.stored());

    // A start under the same limit serves the stored records, also after a kill.
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut server = Server::start(&home, home.under(script, false));
        server.serves(&mut caller);
        assert_eq!(caller.count(&digest(0)), 1);
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 500);
        server.process().signal(signal);
        assert_eq!(server.ended().code(), (signal == Signal::SIGTERM).then_some(0));
    }
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.stop();
}

#[test]
fn server_recovers_from_a_temporary_file_size_limit() {
    let home = Home::open();
    let mut server = Server::start(&home, home.command());
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    let limit = |bytes: &str| {
        let pid = server.process().pid().to_string();
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(status.unwrap().success());
    };
    limit("1000");
    eventually("a refusal", || (caller.answered("report", &[DIGEST]).code() == 500).then_some(()));
    for _ in 0..100 {
        assert_eq!(caller.answered("check", &[DIGEST]).code(), 200);
    }
    limit("unlimited");
    eventually("reports", || (caller.answered("report", &[DIGEST]).code() == 200).then_some(()));
    eventually("a line about lost lines", || home.log().contains(" lines were lost").then_some(()));
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn log_lines_beyond_the_file_size_limit_are_lost_and_counted() {
    let home = Home::open().file("usage.log", vec![b'\n'; 4 << 20]);
    let mut server = Server::start(&home, home.under("ulimit -f 4096; exec \"$@\"", false));
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    eventually("the failure", || home.log().contains("cannot write to the usage log file").then_some(()));
    fs::OpenOptions::new().write(true).truncate(true).open(home.path("usage.log")).unwrap();
    eventually("the number of lost lines", || {
        assert_eq!(caller.answered("ping", &[]).code(), 200);
        home.log().contains(" lines were lost").then_some(())
    });
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn start_under_any_file_size_limit_works_or_reports_the_limit() {
    // In KiB.
    for limit in [0, 1, 4, 16, 64, 512, 1024, 2048, 100_000, 2_000_000] {
        let home = Home::open();
        let script = format!("ulimit -f {limit}; exec \"$@\"");
        let mut server = Server::start(&home, home.under(&script, false));
        let mut caller = home.caller();
        let status = eventually("a start or its end", || {
            if !server.is_running() {
                return Some(Some(server.ended()));
            }
            caller.ask("ping", &[], Duration::from_millis(100)).map(|_| None)
        });
        if let Some(status) = status {
            let said = home.stderr();
            assert_eq!(status.code(), Some(1), "{limit}");
            // With the smallest limit not even the message can be written.
            assert!(
                limit == 0 || said.lines().count() == 1 && said.contains("raise the limit"),
                "{limit}: {said}"
            );
            assert!(limit < 2048, "{limit}: {said}");
            // A start without the limit works.
            home.detach().stop();
            continue;
        }
        let code = caller.answered("report", &[DIGEST]).code();
        assert_eq!(code, if limit >= 2048 { 200 } else { 500 }, "{limit}");
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0), "{limit}");
    }
}

#[test]
fn migration_beyond_the_file_size_limit_fails_with_a_message() {
    let home = Home::open();
    let value = "1,3,2011-03-13 07:06:40,2011-03-13 07:06:40,0,None,None";
    let records: Vec<_> = (0..20_000).map(|number| (digest(number), value)).collect();
    home.database().write(&records);
    let (source, destination) = (home.path("pyzord.db"), home.path("destination.db"));
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -f 1500; exec \"$@\"", "bash", env!("CARGO_BIN_EXE_pyzor-migrate")]);
    command.arg("--se=gdbm").arg("--de=gdbm").arg("--sd").arg(&source).arg("--dd").arg(&destination);
    let finished = finish(command);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("pyzor-migrate: error: "), "{finished:?}");
}

/// The limit is lowered below the initial one at many moments, which leaves little room to close the database.
#[test]
fn file_size_limit_lowered_under_load_does_not_end_the_server() {
    for round in 0..8 {
        let home = Home::open();
        let mut server = Server::start(&home, home.under("ulimit -S -f 3072; exec \"$@\"", false));
        let mut caller = home.caller();
        server.serves(&mut caller);
        let mut acknowledged = Vec::new();
        let mut report = |number: u32| {
            let digest = digest(number);
            let reply = caller.ask("report", &[&digest], Duration::from_secs(5));
            if reply.is_some_and(|reply| reply.code() == 200) {
                acknowledged.push(digest);
            }
        };
        let before = 300 + 97 * round;
        (0..before).for_each(&mut report);
        let pid = server.process().pid().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, "--fsize=8192:unlimited"]).status();
        assert!(status.unwrap().success());
        (before..before + 1500).for_each(&mut report);
        assert!(server.is_running(), "{}", home.log());
        server.process().signal(Signal::SIGTERM);
        assert!(server.ended().success(), "{}", home.log());
        let stored = home.stored();
        assert!(
            acknowledged.len() >= 300 && acknowledged.iter().all(|digest| stored.get(digest) == Some(&1))
        );
    }
}
