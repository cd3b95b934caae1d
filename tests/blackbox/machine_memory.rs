//! A machine that has no more processes, or no more memory, for a server that runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::harness::{Account, Home, eventually, ours_only, unix_time};
use crate::support::digest;

/// Sets how many processes the user of this one may have.
fn limit_processes(pid: u32, most: u32) {
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nproc={most}:")]);
    if Uid::effective().is_root() {
        // A container's root may not do that for others.
        command.uid(process.uid()).gid(process.gid());
    }
    assert!(command.status().unwrap().success());
}

#[test]
fn want_of_processes_leaves_accounts_and_rules_in_force_and_passes() {
    if !ours_only() {
        return;
    }
    // For root there is no such limit.
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
    for (signals, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        server.signal(signal);
        eventually("a line about it", || {
            (home.log().matches("logs, accounts and rules in force stay").count() > signals).then_some(())
        });
        assert_eq!(server.request("report", &[&digest(1)]).code(), 200);
        assert_eq!((code(&old), code(&new)), (200, 401));
    }
    limit_processes(server.pid(), 10_000);
    server.signal(Signal::SIGUSR1);
    eventually("the new account", || (code(&new) == 200).then_some(()));
    let database = home.database();
    assert_eq!(server.stop().code(), Some(0));
    assert!(database.record(&digest(1)).starts_with("1,2,"));
}
