//! pyzorctl with real servers.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::interval::Watch;
use super::{program, said};
use crate::harness::{Account, DIGEST, Finished, Home, Redis, Server, eventually, finish, run};

/// Runs the program with the homedir of a server.
fn asked(server: &Server, arguments: &str) -> Finished {
    said(&format!("--homedir {} {arguments}", server.home().directory().display()))
}

/// Returns the report of a command as JSON.
#[track_caller]
fn report(server: &Server, command: &str) -> Value {
    let said = asked(server, &format!("--json {command}"));
    said.expect_report(0);
    said.json()
}

#[test]
fn status_describes_the_server_and_its_database() {
    let alice = Account::new("alice");
    let home = Home::open().passwd(format!("alice : {}\n", alice.key()));
    let server = home.start();
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    let said = asked(&server, "status");
    let text = said.expect_report(0);
    assert!(
        text.starts_with("well: ")
            && text.lines().next().unwrap().contains(" requests/s, gdbm available, up "),
        "{text}"
    );
    let status = report(&server, "status");
    assert_eq!(status["pid"], server.pid());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["address"], format!("127.0.0.1:{}", server.port()));
    assert_eq!(
        (&status["engine"], &status["storage"]["availability"]),
        (&json!("gdbm"), &json!("available"))
    );
    assert_eq!((&status["accounts"], &status["problems"]), (&json!(1), &json!([])));
    assert_eq!(status["storage"]["records"], 1);
    assert!(status["database"].as_str().unwrap().contains("pyzord.db"), "{status}");
    assert!(status["replies"].as_u64().unwrap() >= 2, "{status}");
}

#[test]
fn stats_count_replies_hits_and_refusals() {
    let server = Home::new().access("check report ping : anonymous : allow\n").start();
    let before = report(&server, "stats");
    assert_eq!(server.request("report", &[DIGEST]).code(), 200);
    assert_eq!(server.request("check", &[DIGEST]).code(), 200);
    assert_eq!(server.request("check", &["0000000000000000000000000000000000000001"]).code(), 200);
    for _ in 0..3 {
        server.request("whitelist", &[DIGEST]);
    }
    // Replies are counted after they are sent.
    eventually("the counters", || {
        let stats = report(&server, "stats");
        let since = |place: &str| {
            let number = |report: &Value| report.pointer(place).unwrap().as_u64().unwrap();
            number(&stats) - number(&before)
        };
        let counted = [
            "/requests/report/200",
            "/requests/check/200",
            "/requests/whitelist/403",
            "/check_hits",
            "/check_misses",
            "/anonymous",
        ];
        (counted.map(since) == [1, 2, 3, 1, 1, 6]).then_some(())
    });
    let text = asked(&server, "stats").expect_report(0).to_owned();
    assert!(text.contains("\n  whitelist") && text.contains("hits 1 (50.0 %), misses 1\n"), "{text}");
}

#[test]
fn reload_says_what_changed_or_what_is_wrong() {
    let alice = Account::new("alice");
    let home = Home::new().access("all : alice bob : allow\n").passwd(format!("alice : {}\n", alice.key()));
    let server = home.start();
    asked(&server, "reload").expect_report(0);
    let bob = Account::new("bob");
    home.rewrite("pyzord.passwd", format!("alice : {}\nbob : {}\n", alice.key(), bob.key()));
    let said = asked(&server, "reload");
    assert!(said.expect_report(0).starts_with("reloaded"), "{said:?}");
    assert_eq!(server.request_as(&bob, "check", &[DIGEST]).code(), 200);
    assert_eq!(report(&server, "status")["accounts"], 2);
    home.rewrite("pyzord.access", "all : alice bob : allow\nthis is no rule\n");
    let warned = asked(&server, "reload");
    assert!(
        warned.expect_report(0).contains("\nwarning: ") && warned.stdout.contains("pyzord.access:2"),
        "{warned:?}"
    );
    fs::remove_file(home.path("pyzord.access")).unwrap();
    fs::create_dir(home.path("pyzord.access")).unwrap();
    home.rewrite("pyzord.passwd", "");
    for command in ["reload", "reopen"] {
        let said = asked(&server, command);
        let complaint = said.expect_complaint(1);
        assert!(complaint.contains("pyzord.access"), "{complaint}");
    }
    // Neither file was loaded.
    assert_eq!(server.request_as(&bob, "check", &[DIGEST]).code(), 200);
}

#[test]
fn reopen_opens_the_logs_again() {
    let server = Home::open().start();
    let (log, old) = (server.home().path("pyzord.log"), server.home().path("old"));
    fs::rename(&log, &old).unwrap();
    asked(&server, "reopen").expect_report(0);
    eventually("a new log", || log.exists().then_some(()));
}

#[test]
fn unavailable_database_is_critical() {
    let mut redis = Redis::start();
    let home = Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port()));
    let server = home.start();
    assert_eq!(asked(&server, "status").code, Some(0));
    redis.service().kill();
    eventually("a critical state", || {
        server.request("check", &[DIGEST]);
        let said = asked(&server, "status");
        (said.code == Some(2)).then(|| {
            let text = said.expect_report(2);
            assert!(text.starts_with("critical: ") && text.contains("\n  problem "), "{text}");
        })
    });
    redis.restart();
    eventually("a good state", || (asked(&server, "status").code == Some(0)).then_some(()));
}

#[test]
fn restart_is_noticed_by_a_watch() {
    let home = Home::open();
    let server = home.start();
    let mut watch = Watch::start(&home.path("pyzord.sock"), "--json");
    assert_eq!(watch.object()["restarted"], false);
    server.stop();
    let complaint = watch.complaint();
    assert!(complaint.ends_with("; trying again"), "{complaint}");
    let _server = home.start();
    eventually("a restart", || (watch.object()["restarted"] == true).then_some(()));
}

#[test]
fn hung_server_gives_no_answer() {
    let server = Home::open().start();
    asked(&server, "status").expect_report(0);
    server.signal(Signal::SIGSTOP);
    let said = asked(&server, "status");
    server.signal(Signal::SIGCONT);
    assert!(said.expect_report(3).contains("no reply from "), "{said:?}");
    asked(&server, "status").expect_report(0);
}

#[test]
fn stopped_and_killed_servers_are_absent() {
    let home = Home::open();
    let server = home.start();
    let path = home.directory();
    let told = || said(&format!("--homedir {} status", path.display()));
    told().expect_report(0);
    server.signal(Signal::SIGKILL);
    // The kill may also hit the server in the middle of a reply.
    eventually("no server", || told().stdout.contains("no server listens on ").then_some(()));
    told().expect_report(3);
    drop(server);
    home.start().stop();
    assert!(told().expect_report(3).contains("there is no control socket "));
}

#[test]
fn socket_is_usable_with_socat_as_documented() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md")).unwrap();
    let line = page.lines().find_map(|line| line.trim_start().strip_prefix("$ echo ")).unwrap();
    let server = Home::open().start();
    let line = line.replace("/var/lib/pyzord", server.home().directory().to_str().unwrap());
    for command in ["status", "stats", "reload", "reopen"] {
        let line = format!("echo {}", line.replace("status", command));
        let output = run(Command::new("sh").args(["-c", &line]), b"");
        let text = String::from_utf8(output.stdout).unwrap();
        let reply: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {line}: {text}"));
        let name = if command.starts_with("re") { "reloaded" } else { command };
        assert!(reply[name].is_object() && text.ends_with('\n'), "{text}");
    }
}

#[test]
fn server_without_a_control_socket_is_named() {
    let server = Home::open().config("ControlSocket =\n").start();
    let said = asked(&server, "status");
    assert!(said.expect_report(3).contains("ControlSocket is empty in "), "{said:?}");
    // The test over UDP needs no socket.
    let mut command = program("health");
    command.arg(format!("127.0.0.1:{}", server.port()));
    finish(command).expect_report(0);
}

#[test]
fn first_warnings_about_a_large_file_are_shown_with_the_number_of_the_others() {
    let home = Home::open();
    let server = home.start();
    let count = 20_000;
    home.rewrite("pyzord.access", format!("all : anonymous : allow\n{}", "no rule\n".repeat(count)));
    let said = asked(&server, "reload");
    assert_eq!(said.expect_report(0).matches("\nwarning: ").count(), 101);
    assert!(said.stdout.ends_with("\nwarning: 19900 more warnings: see the log\n"), "{}", said.stdout);
}
