//! Command lines and configurations of real deployments, unchanged except for ports and database sockets.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, MariaDb, Redis, Server, eventually};

/// Returns the server's command with these arguments, in which `HOMEDIR` and `PORT` are replaced by those of the home.
fn deployed(home: &Home, line: &str) -> Command {
    let mut command = home.bare();
    let homedir = home.directory();
    for word in line.split_whitespace() {
        command.arg(
            word.replace("HOMEDIR", homedir.to_str().unwrap()).replace("PORT", &home.port().to_string()),
        );
    }
    command
}

/// The configuration of a container: workers and threads at once, absolute log files.
fn container_config(home: &Home, engine: &str) -> String {
    let logs = home.parent().join("log");
    format!(
        "[server]\nPort = {}\nListenAddress = 0.0.0.0\nEngine = {engine}\nCleanupAge = 10368000\n\
         PreFork = 4\nThreads = True\nMaxThreads = 4\nProcesses = False\nMaxProcesses = 40\nDBConnections = 0\n\
         Gevent = False\nForwardClientHomeDir =\nPasswdFile = pyzord.passwd\nAccessFile = pyzord.access\n\
         LogFile = {}/pyzord.log\nUsageLogFile = {}/usage.log\nSentryDSN =\nSentryLogLevel = WARN\n\
         UsageSentryDSN =\nUsageSentryLogLevel = WARN\nPidFile = pyzord.pid\n",
        home.port(),
        logs.display(),
        logs.display(),
    )
}

/// Creates world-writable log files in advance, as the container does.
fn create_logs(home: &Home) {
    use std::os::unix::fs::PermissionsExt;

    let logs = home.parent().join("log");
    fs::create_dir(&logs).unwrap();
    for name in ["pyzord.log", "usage.log"] {
        fs::write(logs.join(name), "").unwrap();
        fs::set_permissions(logs.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
}

fn the_container_starts(engine: &str) {
    let home = Home::open();
    create_logs(&home);
    home.rewrite("config", container_config(&home, engine));
    let mut server = Server::start(&home, deployed(&home, "--homedir=HOMEDIR/"));
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    // The existing files are written, since other programs may follow them.
    let logs = home.parent().join("log");
    eventually("the usage log", || {
        fs::read_to_string(logs.join("usage.log")).unwrap().contains(",report,").then_some(())
    });
    assert!(fs::read_to_string(logs.join("pyzord.log")).unwrap().contains("Starting"));
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn the_container_with_workers_and_threads_starts() {
    the_container_starts("gdbm\nDigestDB = pyzord.db");
}

#[test]
fn the_container_with_redis_starts() {
    let redis = Redis::with("--requirepass secret", &["-a", "secret", "--no-auth-warning"]);
    the_container_starts(&format!("redis\nDigestDB = 127.0.0.1,{},secret,10", redis.port()));
    assert_eq!(redis.cli(&["-n", "10", "hget", &format!("pyzord.digest_v1.{DIGEST}"), "r_count"]), "1\n");
}

#[test]
fn the_pod_with_a_file_named_access_starts() {
    // The server does not read a file named `access`, so the default rules apply: no whitelisting.
    let home = Home::new().file("access", "all : all anonymous : allow\n");
    home.rewrite("config", "[server]\nEngine = gdbm\nPreFork = 4\nThreads = True\n");
    for line in ["--homedir HOMEDIR -p PORT", "--homedir HOMEDIR --debug -p PORT"] {
        let mut server = Server::start(&home, deployed(&home, line));
        let mut caller = home.caller();
        server.serves(&mut caller);
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        assert_eq!(caller.answered("whitelist", &[DIGEST]).code(), 403);
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn installer_can_start_and_restart_the_server() {
    let everything = "check report ping pong info whitelist : anonymous : allow\n";
    let home = Home::new().access(everything);
    home.rewrite(
        "config",
        "[client]\nServersFile = servers\nTimeout = 5\n\n[server]\nEngine = gdbm\nDigestDB = pyzord.db\n",
    );
    let line = "--detach /dev/null --homedir=HOMEDIR/ -a 127.0.0.1 --cleanup-age=2592000 -p PORT";
    for round in 0..3 {
        // The installer starts the server only if there is no pid file.
        assert!(!home.path("pyzord.pid").exists());
        let daemon = home.detach_with(deployed(&home, line));
        assert_eq!(home.caller().count(DIGEST), round);
        for operation in ["report", "whitelist", "info", "pong"] {
            assert_eq!(home.caller().answered(operation, &[DIGEST]).code(), 200);
        }
        let script = "kill -9 $(cat \"$1\") && rm \"$1\"";
        let status =
            Command::new("sh").args(["-c", script, "sh"]).arg(home.path("pyzord.pid")).status().unwrap();
        assert!(status.success());
        daemon.ended();
    }
}

#[test]
fn the_unit_of_start_stop_daemon_starts_reloads_and_stops() {
    let home = Home::new();
    let daemon =
        home.detach_with(deployed(&home, "-e gdbm --homedir HOMEDIR --detach HOMEDIR/output -p PORT"));
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    home.rewrite("pyzord.access", "ping : anonymous : allow\n");
    let kill = |signal: &str| {
        let script = format!("kill -{signal} `cat {}`", home.path("pyzord.pid").display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    kill("USR1");
    eventually("the new rules", || (home.caller().answered("report", &[DIGEST]).code() == 403).then_some(()));
    kill("TERM");
    daemon.ended();
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn the_unit_with_mysql_starts() {
    let mariadb = MariaDb::start();
    let home = Home::open();
    let line =
        "-e mysql --dsn localhost,pyzor,secret,pyzor,digests --homedir HOMEDIR --detach /dev/null -p PORT";
    let mut command = deployed(&home, line);
    command.env("MYSQL_UNIX_PORT", mariadb.socket());
    let daemon = home.detach_with(command);
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.signal(Signal::SIGTERM);
    daemon.ended();
    assert_eq!(mariadb.sql("SELECT digest, r_count FROM pyzor.digests"), format!("{DIGEST}\t1\n"));
}

#[test]
fn the_example_of_the_manual_starts() {
    let home = Home::open();
    fs::remove_dir_all(home.directory()).unwrap();
    let daemon = home.detach_with(deployed(&home, "--detach /dev/null --homedir=HOMEDIR/ -p PORT"));
    // The default rules allow checks and reports, but no whitelisting.
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    assert_eq!(home.caller().answered("whitelist", &[DIGEST]).code(), 403);
    daemon.stop();
}
