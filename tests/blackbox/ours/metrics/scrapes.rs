//! A real Prometheus server scrapes the real server.

use super::{home, metrics_of};
use crate::harness::{Account, DIGEST, Prometheus, digest, eventually};

#[test]
fn prometheus_has_the_values_of_a_known_load() {
    let (account, stranger) = (Account::new("alice"), Account::with_key("alice", &"0".repeat(40)));
    let server = home("")
        .passwd(account.passwd())
        .access("all : alice : allow\ncheck ping report : anonymous : allow\n")
        .start();
    let prometheus = Prometheus::scraping(metrics_of(&server));
    for number in 0..7 {
        server.request_as(&account, "report", &[&digest(number)]);
    }
    for number in 0..10 {
        server.request("check", &[&digest(number)]);
    }
    server.request("whitelist", &[DIGEST]);
    server.request_as(&stranger, "whitelist", &[DIGEST]);
    for (expression, value) in [
        (r#"pyzord_requests_total{op="report",code="200"}"#, 7.0),
        (r#"pyzord_requests_total{op="check",code="200"}"#, 10.0),
        (r#"pyzord_requests_total{op="whitelist",code="403"}"#, 1.0),
        (r#"pyzord_requests_total{op="whitelist",code="401"}"#, 1.0),
        ("pyzord_check_hits_total", 7.0),
        ("pyzord_check_misses_total", 3.0),
        (r#"pyzord_requests_by_user_total{user="account"}"#, 8.0),
        ("pyzord_engine_records", 7.0),
        ("pyzord_engine_up", 1.0),
        ("pyzord_health", 0.0),
        ("pyzord_accounts", 1.0),
        (r#"count(pyzord_build_info{engine="gdbm"})"#, 1.0),
        ("sum(pyzord_dropped_total)", 0.0),
        (r#"up{job="pyzord"}"#, 1.0),
        // Every reply is in the histogram.
        ("sum(pyzord_requests_total) - sum(pyzord_request_duration_seconds_count)", 0.0),
        (
            r#"sum(pyzord_request_duration_seconds_bucket{le="+Inf"}) - sum(pyzord_request_duration_seconds_count)"#,
            0.0,
        ),
        ("histogram_quantile(0.5, pyzord_request_duration_seconds_bucket) > bool 0", 1.0),
        ("time() - process_start_time_seconds >= bool 0", 1.0),
    ] {
        eventually(&format!("{expression} = {value}"), || {
            (prometheus.value(expression) == Some(value)).then_some(())
        });
    }
    let kinds = prometheus.api("metadata?metric=pyzord_check_hits");
    assert_eq!(kinds["pyzord_check_hits"][0]["type"], "counter", "{kinds}");
    assert!(server.stop().success());
    eventually("the scrapes to fail", || (prometheus.value("up") == Some(0.0)).then_some(()));
}
