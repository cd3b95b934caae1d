//! Command lines and configurations that are in use, as their owners wrote them, but for the ports and
//! sockets of their databases.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, MariaDb, Redis, eventually, ours_only};
use crate::support::{Running, Site};

/// The site's program under the arguments of a deployed command line, with the words `HOMEDIR` and
/// `PORT` replaced by the site's.
fn deployed(site: &Site, line: &str) -> Command {
    let mut command = site.bare();
    let homedir = site.home().path();
    for word in line.split_whitespace() {
        command.arg(
            word.replace("HOMEDIR", homedir.to_str().unwrap()).replace("PORT", &site.port().to_string()),
        );
    }
    command
}

/// A container's configuration: workers and threads at once, absolute log files.
fn container_config(site: &Site, engine: &str) -> String {
    let logs = site.folder().join("log");
    format!(
        "[server]\nPort = {}\nListenAddress = 0.0.0.0\nEngine = {engine}\nCleanupAge = 10368000\n\
         PreFork = 4\nThreads = True\nMaxThreads = 4\nProcesses = False\nMaxProcesses = 40\nDBConnections = 0\n\
         Gevent = False\nForwardClientHomeDir =\nPasswdFile = pyzord.passwd\nAccessFile = pyzord.access\n\
         LogFile = {}/pyzord.log\nUsageLogFile = {}/usage.log\nSentryDSN =\nSentryLogLevel = WARN\n\
         UsageSentryDSN =\nUsageSentryLogLevel = WARN\nPidFile = pyzord.pid\n",
        site.port(),
        logs.display(),
        logs.display(),
    )
}

/// Creates the log files beforehand, for everybody to write, as the container does.
fn create_logs(site: &Site) {
    use std::os::unix::fs::PermissionsExt;

    let logs = site.folder().join("log");
    fs::create_dir(&logs).unwrap();
    for name in ["pyzord.log", "usage.log"] {
        fs::write(logs.join(name), "").unwrap();
        fs::set_permissions(logs.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
}

fn the_container_starts(engine: &str) {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    create_logs(&site);
    site.home().rewrite("config", container_config(&site, engine));
    let mut server = Running::start(&site, deployed(&site, "--homedir=HOMEDIR/"));
    let mut caller = site.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    // The files that somebody follows are the ones that are written.
    let logs = site.folder().join("log");
    eventually("the usage log", || {
        fs::read_to_string(logs.join("usage.log")).unwrap().contains(",report,").then_some(())
    });
    assert!(fs::read_to_string(logs.join("pyzord.log")).unwrap().contains("Starting"));
    server.daemon().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn the_container_with_workers_and_threads_starts() {
    the_container_starts("gdbm\nDigestDB = pyzord.db");
}

#[test]
fn the_container_with_redis_starts() {
    if !ours_only() {
        return;
    }
    let redis = Redis::with("--requirepass secret", &["-a", "secret", "--no-auth-warning"]);
    the_container_starts(&format!("redis\nDigestDB = 127.0.0.1,{},secret,10", redis.port()));
    assert_eq!(redis.cli(&["-n", "10", "hget", &format!("pyzord.digest_v1.{DIGEST}"), "r_count"]), "1\n");
}

#[test]
fn the_pod_with_a_file_named_access_starts() {
    if !ours_only() {
        return;
    }
    // Its file `access` is not the one that is read, so the defaults hold: no whitelisting.
    let site = Site::at(Home::new().file("access", "all : all anonymous : allow\n"));
    site.home().rewrite("config", "[server]\nEngine = gdbm\nPreFork = 4\nThreads = True\n");
    for line in ["--homedir HOMEDIR -p PORT", "--homedir HOMEDIR --debug -p PORT"] {
        let mut server = Running::start(&site, deployed(&site, line));
        let mut caller = site.caller();
        server.serves(&mut caller);
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        assert_eq!(caller.answered("whitelist", &[DIGEST]).code(), 403);
        server.daemon().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn the_installer_starts_and_restarts_it_its_way() {
    if !ours_only() {
        return;
    }
    let everything = "check report ping pong info whitelist : anonymous : allow\n";
    let site = Site::at(Home::new().access(everything));
    site.home().rewrite(
        "config",
        "[client]\nServersFile = servers\nTimeout = 5\n\n[server]\nEngine = gdbm\nDigestDB = pyzord.db\n",
    );
    let line = "--detach /dev/null --homedir=HOMEDIR/ -a 127.0.0.1 --cleanup-age=2592000 -p PORT";
    for round in 0..3 {
        // It starts the server only when there is no pid file.
        assert!(!site.path("pyzord.pid").exists());
        let daemon = site.detach_with(deployed(&site, line));
        assert_eq!(site.caller().count(DIGEST), round);
        for operation in ["report", "whitelist", "info", "pong"] {
            assert_eq!(site.caller().answered(operation, &[DIGEST]).code(), 200);
        }
        let script = "kill -9 $(cat \"$1\") && rm \"$1\"";
        let status =
            Command::new("sh").args(["-c", script, "sh"]).arg(site.path("pyzord.pid")).status().unwrap();
        assert!(status.success());
        daemon.ended();
    }
}

#[test]
fn the_unit_of_start_stop_daemon_starts_reloads_and_stops() {
    if !ours_only() {
        return;
    }
    let site = Site::at(Home::new());
    let daemon =
        site.detach_with(deployed(&site, "-e gdbm --homedir HOMEDIR --detach HOMEDIR/output -p PORT"));
    assert_eq!(site.caller().answered("report", &[DIGEST]).code(), 200);
    site.home().rewrite("pyzord.access", "ping : anonymous : allow\n");
    let kill = |signal: &str| {
        let script = format!("kill -{signal} `cat {}`", site.path("pyzord.pid").display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    kill("USR1");
    eventually("the new rules", || (site.caller().answered("report", &[DIGEST]).code() == 403).then_some(()));
    kill("TERM");
    daemon.ended();
    assert!(!site.path("pyzord.pid").exists());
}

#[test]
fn the_unit_with_mysql_starts() {
    if !ours_only() {
        return;
    }
    let mariadb = MariaDb::start();
    let site = Site::new();
    let line =
        "-e mysql --dsn localhost,pyzor,secret,pyzor,digests --homedir HOMEDIR --detach /dev/null -p PORT";
    let mut command = deployed(&site, line);
    command.env("MYSQL_UNIX_PORT", mariadb.socket());
    let daemon = site.detach_with(command);
    assert_eq!(site.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.signal(Signal::SIGTERM);
    daemon.ended();
    assert_eq!(mariadb.sql("SELECT digest, r_count FROM pyzor.digests"), format!("{DIGEST}\t1\n"));
}

#[test]
fn the_example_of_the_manual_starts() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    fs::remove_dir_all(site.home().path()).unwrap();
    let daemon = site.detach_with(deployed(&site, "--detach /dev/null --homedir=HOMEDIR/ -p PORT"));
    // The default rules: checks and reports, but no whitelisting.
    assert_eq!(site.caller().answered("report", &[DIGEST]).code(), 200);
    assert_eq!(site.caller().answered("whitelist", &[DIGEST]).code(), 403);
    daemon.stop();
}
