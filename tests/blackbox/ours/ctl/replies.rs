//! The output for each reply of a server.

use serde_json::json;

use super::fake::{FakeServer, line, stats, status};
use super::said_by;

#[test]
fn status_is_a_screen_with_a_summary() {
    let server = FakeServer::replying(line("status", &status()));
    let text = said_by(&server.socket(), "status");
    let lines: Vec<&str> = text.expect_report(0).lines().collect();
    assert_eq!(lines[0], "well: 1,234 requests/s, gdbm available, up 3 days");
    assert!(lines.len() < 24, "{lines:#?}");
    for expected in [
        "  process      42, user pyzord",
        "  started      2026-11-25T08:00:00Z, 3 days 11 hours ago",
        "  records      1,234,567, 117.7 MiB",
        "  expiry       2 hours 1 minute ago: removed 5 of 1,000 records; next in 22 hours",
    ] {
        assert!(lines.contains(&expected), "no {expected} in {lines:#?}");
    }
    assert_eq!(server.stop(), ["{\"command\":\"status\"}\n"]);
}

#[test]
fn health_of_the_server_is_the_exit_code() {
    for (health, code) in [("well", 0), ("degraded", 1), ("critical", 2)] {
        let mut report = status();
        report["health"] = json!(health);
        if code > 0 {
            report["problems"] = json!(["the database is gone", "and more"]);
        }
        let server = FakeServer::replying(line("status", &report));
        let text = said_by(&server.socket(), "status").expect_report(code).to_owned();
        assert!(text.starts_with(&format!("{health}: ")), "{text}");
        assert_eq!(
            text.contains("\n  problem      the database is gone\n  problem      and more\n"),
            code > 0
        );
        let said = said_by(&server.socket(), "status --json");
        said.expect_report(code);
        assert_eq!(said.json(), report);
    }
}

#[test]
fn unknown_fields_of_a_newer_server_are_printed_as_json() {
    let mut report = status();
    report["storage"]["new"] = json!({ "x": [1, null] });
    let server = FakeServer::replying(line("status", &report));
    assert_eq!(said_by(&server.socket(), "--json status").json(), report);
    said_by(&server.socket(), "status").expect_report(0);
}

#[test]
fn stats_are_tables_without_zeros() {
    let server = FakeServer::replying(line("stats", &stats(100.0, 2000)));
    let text = said_by(&server.socket(), "stats").expect_report(0).to_owned();
    assert!(
        text.starts_with("2,000 replies in 1 minute 40 seconds (20 per second)\n\n           200  total\n"),
        "{text}"
    );
    for expected in [
        "\n  check  2,000  2,000\n\n",
        "\n  checks       hits 1,000 (50.0 %), misses 1,000\n",
        "\n  drops        shed 2\n",
        "\n  limits       exceeded: RateLimitErrors 3\n",
        "\n  latency      p50 111 µs, p90 111 µs, p99 111 µs, p99.9 111 µs, mean 100 µs\n",
    ] {
        assert!(text.contains(expected), "no {expected} in {text}");
    }
    assert!(!text.contains("ping") && !text.contains("403") && !text.contains("replays"), "{text}");
    let said = said_by(&server.socket(), "--json stats");
    assert_eq!((said.code, said.json()), (Some(0), stats(100.0, 2000)));
}

#[test]
fn reload_shows_changes_or_the_reason_of_the_failure() {
    let report = json!({ "changes": ["one account more", "no rules"], "warnings": ["access:3: no effect"] });
    for command in ["reload", "reopen"] {
        let server = FakeServer::replying(line("reloaded", &report));
        let said = said_by(&server.socket(), command);
        let expected = "reloaded:\n  one account more\n  no rules\nwarning: access:3: no effect\n";
        assert_eq!(said.expect_report(0), expected);
        assert_eq!(said_by(&server.socket(), &format!("--json {command}")).json(), report);
        assert_eq!(server.stop()[0], format!("{{\"command\":\"{command}\"}}\n"));

        let server = FakeServer::replying("{\"error\":\"access:7: what is this?\"}\n");
        assert_eq!(said_by(&server.socket(), command).expect_complaint(1), "access:7: what is this?");
        let said = said_by(&server.socket(), &format!("{command} --json"));
        said.expect_report(1);
        assert_eq!(said.json(), json!({ "error": "access:7: what is this?" }));
    }
}

#[test]
fn server_that_cannot_answer_is_an_unknown_state() {
    let server = FakeServer::replying("{\"unavailable\":\"too many connections: try again\"}\n");
    // Not 1, which is for files that cannot be read.
    assert_eq!(said_by(&server.socket(), "reload").expect_complaint(3), "too many connections: try again");
    let said = said_by(&server.socket(), "status");
    assert_eq!(said.expect_report(3), "unknown: too many connections: try again\n");
    assert_eq!(said_by(&server.socket(), "stats").expect_complaint(3), "too many connections: try again");
}

#[test]
fn terminal_control_characters_never_reach_the_terminal() {
    let evil = "\u{1b}]0;title\u{7}\r\n\u{9b}2J\u{202e}";
    let mut report = status();
    for field in
        ["version", "build", "address", "started", "user", "confinement", "engine", "database", "loaded"]
    {
        report[field] = json!(evil);
    }
    report["problems"] = json!([evil, evil]);
    report["storage"]["reason"] = json!(evil);
    report["storage"]["problems"] = json!([evil]);
    report["storage"]["last_expiry"]["error"] = json!(evil);
    let mut counters = stats(1.0, 5);
    counters["requests"][evil] = json!({ "200": 1 });
    counters["drops"][evil] = json!(1);
    counters["exceeded"][evil] = json!(1);
    let reload = json!({ "changes": [evil], "warnings": [evil] });
    for (command, reply) in [
        ("status", line("status", &report)),
        ("stats", line("stats", &counters)),
        ("reload", line("reloaded", &reload)),
        ("status", line("error", &json!(evil))),
        ("reopen", line("error", &json!(evil))),
    ] {
        let server = FakeServer::replying(reply);
        for arguments in [command.to_owned(), format!("--json {command}")] {
            let said = said_by(&server.socket(), &arguments);
            let text = format!("{}{}", said.stdout, said.stderr);
            let controls: Vec<char> =
                text.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
            assert!(controls.is_empty() && text.contains("u{9b}2J") | text.contains("u009b2J"), "{said:?}");
        }
    }
}
