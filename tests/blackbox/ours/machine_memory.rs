//! A running server that reaches a limit of processes or memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::harness::{Account, Home, Ledger, MariaDb, Redis, Server, digest, eventually, unix_time};
use crate::ours::outages::Store;

/// Limits the number of processes of the user who runs this process.
fn limit_processes(pid: u32, most: u32) {
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nproc={most}:")]);
    if Uid::effective().is_root() {
        // Root in a container may have no right to do that for other users.
        command.uid(process.uid()).gid(process.gid());
    }
    assert!(command.status().unwrap().success());
}

/// Limits the address space of a server, in bytes.
fn limit_addresses(server: &Server, most: &str) {
    let pid = server.process().pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--as={most}:")]).status();
    assert!(status.unwrap().success());
}

#[test]
fn reload_is_retried_after_a_lack_of_processes() {
    // The limit does not apply to root.
    let (old, new) = (Account::new("old"), Account::new("new"));
    let access = "all : anonymous : allow\nall : all : allow\n";
    let server = Home::new().passwd(old.passwd()).access(access).unprivileged().start();
    let home = server.home();
    let code = |account: &Account| {
        let request = account.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time());
        crate::harness::Reply(server.ask(request)).code()
    };
    limit_processes(server.pid(), 1);
    home.rewrite("pyzord.passwd", new.passwd());
    let (log, rotated) = (home.path("pyzord.log"), home.path("pyzord.log.1"));
    fs::rename(&log, &rotated).unwrap();
    let failures = || fs::read_to_string(&rotated).unwrap().matches("in force stay unchanged").count();
    for (signals, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        server.signal(signal);
        eventually("a line about the failed reload", || (failures() > signals).then_some(()));
        assert_eq!(server.request("report", &[&digest(1)]).code(), 200);
        assert_eq!((code(&old), code(&new)), (200, 401));
    }
    // Retries are not reported.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((failures(), log.exists()), (2, false));
    limit_processes(server.pid(), 10_000);
    eventually("the new account", || (code(&new) == 200).then_some(()));
    eventually("the new log", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("reloaded")).then_some(())
    });
    let database = home.database();
    assert_eq!(server.stop().code(), Some(0));
    assert!(database.record(&digest(1)).starts_with("1,2,"));
}

/// Resolving the name of the database server takes a blocking thread of the runtime.
fn survives_an_outage_without_processes(store: &mut impl Store) {
    let settings = store.settings();
    let named = settings.replace("127.0.0.1", "localhost");
    assert_ne!(settings, named);
    let server = Home::new().config(&named).unprivileged().start();
    let (mut acknowledged, mut sent) = (0, 0);
    let mut report = || {
        let code = server.request("report", &[&digest(1)]).code();
        (acknowledged, sent) = (acknowledged + i64::from(code == 200), sent + 1);
        code
    };
    assert_eq!(report(), 200);
    // By then an idle thread would have ended, if idle threads ended.
    std::thread::sleep(Duration::from_secs(11));
    limit_processes(server.pid(), 1);
    store.service().kill();
    eventually("a refusal", || (report() == 500).then_some(()));
    // Long enough for an attempt to connect to fail.
    std::thread::sleep(Duration::from_secs(2));
    store.restart();
    eventually("the database", || (report() == 200).then_some(()));
    limit_processes(server.pid(), 10_000);
    assert_eq!(server.stop().code(), Some(0));
    let stored = store.stored()[&digest(1)];
    assert!(
        (acknowledged..=sent).contains(&stored),
        "{stored} stored, {acknowledged} acknowledged, {sent} sent"
    );
}

#[test]
fn lack_of_processes_does_not_prevent_a_redis_reconnect() {
    survives_an_outage_without_processes(&mut <Redis as Store>::start());
}

#[test]
fn lack_of_processes_does_not_prevent_a_mysql_reconnect() {
    survives_an_outage_without_processes(&mut <MariaDb as Store>::start());
}

#[test]
fn lack_of_memory_loses_no_acknowledged_report() {
    let home = Home::open().file("config", "[server]\nLogFile = pyzord.log\n");
    let mut server = Server::start(&home, home.command());
    let mut caller = home.caller();
    server.serves(&mut caller);
    let mut ledger = Ledger::default();
    // Less than the server uses already. New buckets of the library cannot be allocated. Sometimes an allocation of the
    // server itself fails, which ends it like a kill.
    limit_addresses(&server, "1000000");
    let (mut refused, mut is_alive) = (0, true);
    for number in 100..100_000 {
        let digest = digest(number);
        let reply = caller.ask("report", &[&digest], Duration::from_secs(2));
        // The repair may find an unfinished change.
        ledger.enter_doubtful(&digest, reply.as_ref());
        is_alive = reply.is_some() || server.is_running();
        refused += u32::from(reply.is_some_and(|reply| reply.code() == 500));
        if !is_alive || refused == 200 {
            break;
        }
    }
    if is_alive {
        assert_eq!(refused, 200, "the memory was not limited");
        limit_addresses(&server, "unlimited");
        let digest = digest(99);
        eventually("reports that count", || {
            let reply = caller.answered("report", &[&digest]);
            ledger.enter_doubtful(&digest, Some(&reply));
            (reply.code() == 200).then_some(())
        });
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    } else {
        assert_eq!(server.ended().signal(), Some(Signal::SIGABRT as i32));
    }
    assert!(ledger.acknowledged() > 100);

    // Unfinished changes are repaired before the server serves.
    let mut server = Server::start(&home, home.command());
    server.serves(&mut caller);
    let log = home.log();
    assert!(log.contains("records recovered"), "{log}");
    assert!(!log.contains("is damaged"), "{log}");
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    ledger.compare(&home.stored());
}
