//! What the pages say.

use std::process::Command;

use serde_json::Value;

use super::{home, metrics_of};
use crate::harness::{
    DIGEST, Home, HttpResponse, Prometheus, Redis, Remote, digest, eventually, exchange, http_connect,
    http_get, http_get_local, run,
};

#[test]
fn pages_have_what_was_counted() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let before = http_get(metrics, "/metrics");
    assert_eq!(before.metric(r#"pyzord_requests_total{op="report",code="200"}"#), 0.0);
    server.request("report", &[DIGEST]);
    server.request("check", &[DIGEST]);
    server.request("check", &[DIGEST]);
    server.request("check", &[&digest(7)]);
    server.request("frobnicate", &[]);
    let page = http_get(metrics, "/metrics");
    for (series, value) in [
        (r#"pyzord_requests_total{op="report",code="200"}"#, 1.0),
        (r#"pyzord_requests_total{op="check",code="200"}"#, 3.0),
        (r#"pyzord_requests_total{op="whitelist",code="200"}"#, 0.0),
        ("pyzord_check_hits_total", 2.0),
        ("pyzord_check_misses_total", 1.0),
        (r#"pyzord_dropped_total{cause="shed"}"#, 0.0),
        (r#"pyzord_rate_limit_exceeded_total{limit="RateLimit"}"#, 0.0),
        ("pyzord_health", 0.0),
        ("pyzord_engine_up", 1.0),
        ("pyzord_engine_read_only", 0.0),
        ("pyzord_engine_records", 1.0),
    ] {
        assert_eq!(page.metric(series), value, "{series}");
    }
    let replies: f64 = page
        .body
        .lines()
        .filter(|line| line.starts_with("pyzord_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    // The harness waits for the reply to a ping, and may send several.
    assert_eq!(page.metric("pyzord_request_duration_seconds_count"), replies);
    let stats = http_get(metrics, "/stats.json").json();
    assert_eq!(stats["requests"]["check"]["200"], 3);
    assert_eq!((&stats["check_hits"], &stats["check_misses"]), (&Value::from(2), &Value::from(1)));
    let health = http_get(metrics, "/healthz");
    assert_eq!((health.code, health.body.as_str()), (200, "well\n"));
    assert_eq!(http_get(metrics, "/").code, 404);
    assert!(server.stop().success());
}

#[test]
fn promtool_has_nothing_to_say_about_the_page() {
    let server = home("").start();
    server.request("report", &[DIGEST]);
    let page = http_get(metrics_of(&server), "/metrics");
    let checked = run(Command::new(Prometheus::promtool()).args(["check", "metrics"]), page.body.as_bytes());
    assert!(
        checked.status.success() && checked.stdout.is_empty() && checked.stderr.is_empty(),
        "{checked:?}"
    );
}

#[test]
fn alerts_are_valid_and_fire_for_what_they_are_about() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/ours/metrics/rules.test.yml");
    let tested = run(Command::new(Prometheus::promtool()).args(["test", "rules", directory]), b"");
    assert!(tested.status.success(), "{tested:?}");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/pyzord.rules.yml");
    let checked = run(Command::new(Prometheus::promtool()).args(["check", "rules", rules]), b"");
    assert!(checked.status.success(), "{checked:?}");
    // A metric that the server does not have would keep an alert silent.
    let remote = Remote::accepting();
    let server = home("").forwarding_to(&[remote.name()]).asking(&[remote.name()]).start();
    let page = http_get(metrics_of(&server), "/metrics").body;
    let text = std::fs::read_to_string(rules).unwrap();
    let expressions = text.lines().filter(|line| !line.trim_start().starts_with(['#', 's', 'd']));
    let words = expressions.flat_map(|line| line.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()));
    for name in words.filter(|word| word.starts_with("pyzord_") || word.starts_with("process_")) {
        let is_there = page.lines().any(|line| line.starts_with(name));
        // Until the first expiry has ended there is nothing to say about one.
        assert!(is_there || name.starts_with("pyzord_expiry_last"), "there is no {name}:\n{page}");
    }
}

#[test]
fn head_and_open_metrics_are_answered() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let ask = |method: &str, fields: &str| {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: {metrics}\r\n{fields}\r\n");
        HttpResponse::parse(&exchange(http_connect(metrics), request.as_bytes())).unwrap()
    };
    let head = ask("HEAD", "");
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: "), "{head:?}");
    let open = ask("GET", "Accept: application/openmetrics-text\r\n");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open:?}");
    assert!(open.body.ends_with("# EOF\n"));
    assert_eq!(ask("POST", "Content-Length: 0\r\n").code, 405);
}

#[test]
fn only_addresses_and_localhost_are_hosts() {
    let server = home("").start();
    let metrics = metrics_of(&server);
    let code = |fields: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\n{fields}\r\n");
        HttpResponse::parse(&exchange(http_connect(metrics), request.as_bytes())).unwrap().code
    };
    assert_eq!(code("Host: localhost:9421\r\n"), 200);
    assert_eq!(code("Host: [::1]\r\n"), 200);
    assert_eq!(code("Host: rebound.example.net\r\n"), 421);
    assert_eq!(code("Host: 127.0.0.1.example.net:9421\r\n"), 421);
    assert_eq!(code(""), 400);
}

#[test]
fn unix_socket_serves_the_pages_under_any_host() {
    let home = Home::open();
    let socket = home.path("metrics.sock");
    let home = home.config(&format!("MetricsAddress = {}\n", socket.display()));
    let server = home.start();
    assert_eq!(http_get_local(&socket, "/healthz").code, 200);
    assert_eq!(http_get_local(&socket, "/metrics").metric("pyzord_engine_up"), 1.0);
    assert!(server.stop().success());
    assert!(!socket.exists());
}

#[test]
fn unavailable_database_is_critical_and_its_address_and_password_stay_secret() {
    let mut redis = Redis::with("--requirepass correct-horse-battery", &["-a", "correct-horse-battery"]);
    let dsn = format!("127.0.0.1,{},correct-horse-battery,0", redis.port());
    let server = home(&format!("Engine = redis\nDigestDB = {dsn}\n")).start();
    let metrics = metrics_of(&server);
    assert_eq!(http_get(metrics, "/healthz").code, 200);
    let port = redis.port().to_string();
    let expect_no_secret = || {
        for target in ["/metrics", "/stats.json", "/healthz", "/"] {
            let HttpResponse { head, body, .. } = http_get(metrics, target);
            for secret in ["correct-horse", port.as_str(), "127.0.0.1"] {
                assert!(!head.contains(secret) && !body.contains(secret), "{target} has {secret}:\n{body}");
            }
        }
    };
    expect_no_secret();
    redis.service().kill();
    let health = eventually("the database to be unavailable", || {
        let health = http_get(metrics, "/healthz");
        (health.code == 503).then_some(health)
    });
    assert_eq!(health.body, "critical\n");
    let page = http_get(metrics, "/metrics");
    assert_eq!((page.metric("pyzord_engine_up"), page.metric("pyzord_health")), (0.0, 2.0));
    expect_no_secret();
    redis.restart();
    eventually("the database to be available", || (http_get(metrics, "/healthz").code == 200).then_some(()));
    assert_eq!(http_get(metrics, "/metrics").metric("pyzord_engine_up"), 1.0);
}
