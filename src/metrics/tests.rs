//! Pages, through hyper.

use std::collections::BTreeSet;
use std::fs;

use super::Transport;
use super::fuzzing::{Stub, answer};
use crate::control::reply::Health;
use crate::storage::Availability;

const HOST: &str = "Host: 127.0.0.1:9421\r\n";

fn ask_over(transport: Transport, request: &str) -> String {
    let stub = Stub { health: Health::Degraded, availability: Availability::ReadOnly, has_upstream: true };
    String::from_utf8(answer(request.as_bytes(), transport, stub)).unwrap()
}

fn ask(request: &str) -> String {
    ask_over(Transport::Tcp, request)
}

fn get(target: &str, fields: &str) -> String {
    ask(&format!("GET {target} HTTP/1.1\r\n{HOST}{fields}\r\n"))
}

#[track_caller]
fn expect_code(response: &str, code: u16) {
    assert!(response.starts_with(&format!("HTTP/1.1 {code} ")), "expected {code}:\n{response}");
}

#[test]
fn metrics_are_in_the_format_that_the_client_accepts() {
    let open = get("/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    expect_code(&open, 200);
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(open.contains("# TYPE pyzord_requests counter\n") && open.ends_with("# EOF\n"), "{open}");
    for accept in [
        "",
        "Accept: */*\r\n",
        "Accept: text/plain, application/openmetrics-text;q=0.5\r\n",
        "Accept: application/openmetrics-text;q=0\r\n",
        "Accept: application/openmetrics-text;q=x\r\n",
    ] {
        let plain = get("/metrics?a=b", accept);
        assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
        assert!(plain.contains("# TYPE pyzord_requests_total counter\n"), "{plain}");
        assert!(!plain.contains("# EOF"));
    }
}

#[test]
fn metrics_have_the_numbers_of_the_server() {
    let page = get("/metrics", "");
    for line in [
        "pyzord_build_info{version=\"1.2.3\",engine=\"gdbm\"} 1",
        "process_start_time_seconds 1770091506",
        "pyzord_health 1",
        "pyzord_accounts 3",
        "pyzord_requests_total{op=\"check\",code=\"200\"} 1",
        "pyzord_requests_total{op=\"other\",code=\"501\"} 1",
        "pyzord_requests_total{op=\"report\",code=\"200\"} 0",
        "pyzord_check_hits_total 1",
        "pyzord_check_misses_total 0",
        "pyzord_dropped_total{cause=\"shed\"} 2",
        "pyzord_dropped_total{cause=\"receive_buffer\"} 0",
        "pyzord_rate_limit_exceeded_total{limit=\"RateLimitErrors\"} 0",
        "pyzord_requests_by_user_total{user=\"anonymous\"} 0",
        "pyzord_request_duration_seconds_bucket{le=\"0.000128\"} 1",
        "pyzord_request_duration_seconds_bucket{le=\"+Inf\"} 2",
        "pyzord_request_duration_seconds_count 2",
        "pyzord_engine_batch_duration_seconds_count 0",
        "pyzord_engine_up 1",
        "pyzord_engine_read_only 1",
        "pyzord_engine_partial 0",
        "pyzord_engine_records 1000000",
        "pyzord_engine_size_bytes 1099511627776",
        "pyzord_engine_unsynced_age_seconds 7",
        "pyzord_expiry_last_removed_records 4",
        "pyzord_expiry_last_failed 1",
        "pyzord_expiry_next_seconds 3600",
        "pyzord_forward_copies_total 0",
        "pyzord_forward_up{server=\"a.example:24441\"} 0",
        "pyzord_forward_queued_digests{server=\"a.example:24441\"} 12",
        "pyzord_forward_in_flight_requests{server=\"a.example:24441\"} 3",
        "pyzord_forward_requests_total{server=\"a.example:24441\"} 5",
        "pyzord_forward_resent_total{server=\"a.example:24441\"} 0",
        "pyzord_forward_digests_total{server=\"a.example:24441\",outcome=\"accepted\"} 30",
        "pyzord_forward_digests_total{server=\"a.example:24441\",outcome=\"refused\"} 17",
        "pyzord_forward_digests_total{server=\"a.example:24441\",outcome=\"dropped\"} 0",
        "pyzord_forward_refused_digests_total{server=\"a.example:24441\",code=\"401\"} 10",
        "pyzord_forward_refused_digests_total{server=\"a.example:24441\",code=\"403\"} 0",
        "pyzord_forward_refused_digests_total{server=\"a.example:24441\",code=\"other\"} 7",
        "pyzord_upstream_up{server=\"b.example:24441\"} 0",
        "pyzord_upstream_in_flight_questions{server=\"b.example:24441\"} 1",
        "pyzord_upstream_questions_total{server=\"b.example:24441\",outcome=\"answered\"} 9",
        "pyzord_upstream_questions_total{server=\"b.example:24441\",outcome=\"refused\"} 3",
        "pyzord_upstream_questions_total{server=\"b.example:24441\",outcome=\"silent\"} 8",
        "pyzord_upstream_refused_questions_total{server=\"b.example:24441\",code=\"401\"} 0",
        "pyzord_upstream_refused_questions_total{server=\"b.example:24441\",code=\"403\"} 2",
        "pyzord_upstream_refused_questions_total{server=\"b.example:24441\",code=\"other\"} 1",
        "pyzord_upstream_unmatched_replies_total{server=\"b.example:24441\"} 5",
        "pyzord_upstream_checks_total{result=\"cached_hit\"} 31",
        "pyzord_upstream_checks_total{result=\"cached_miss\"} 32",
        "pyzord_upstream_checks_total{result=\"asked\"} 20",
        "pyzord_upstream_checks_total{result=\"joined\"} 33",
        "pyzord_upstream_checks_total{result=\"declined_rate\"} 34",
        "pyzord_upstream_checks_total{result=\"declined_busy\"} 0",
        "pyzord_upstream_checks_total{result=\"declined_unavailable\"} 0",
        "pyzord_upstream_checks_total{result=\"declined_local_only\"} 0",
        "pyzord_upstream_answers_total{result=\"found\"} 4",
        "pyzord_upstream_answers_total{result=\"not_found\"} 5",
        "pyzord_upstream_answers_total{result=\"unanswered\"} 11",
        "pyzord_upstream_wait_duration_seconds_bucket{le=\"0.000256\"} 0",
        "pyzord_upstream_wait_duration_seconds_bucket{le=\"0.000512\"} 3",
        "pyzord_upstream_wait_duration_seconds_count 3",
        "pyzord_upstream_cached_answers 1200",
        "pyzord_upstream_waiting_checks 6",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is missing:\n{page}");
    }
}

#[test]
fn metrics_of_second_opinions_are_left_out_without_them() {
    let stub = Stub { health: Health::Well, availability: Availability::Available, has_upstream: false };
    let request = format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n");
    let page = String::from_utf8(answer(request.as_bytes(), Transport::Tcp, stub)).unwrap();
    expect_code(&page, 200);
    assert!(!page.contains("upstream"), "{page}");
}

#[test]
fn the_documentation_has_every_metric_with_its_type() {
    let page = get("/metrics", "");
    let on_page: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    assert!(on_page.len() > 20, "{page}");
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `pyzord_") || line.starts_with("| `process_"));
    let documented = rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().trim_start_matches("| ").trim_matches('`');
        (name.split('{').next().unwrap().to_owned(), cells.next().unwrap().to_owned())
    });
    assert_eq!(documented.collect::<BTreeSet<_>>(), on_page);
}

#[test]
fn health_has_a_code_and_a_word() {
    let answered = |health| {
        let stub = Stub { health, availability: Availability::Unavailable, has_upstream: false };
        let request = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n");
        String::from_utf8(answer(request.as_bytes(), Transport::Tcp, stub)).unwrap()
    };
    for (health, code, word) in [
        (Health::Well, 200, "well"),
        (Health::Degraded, 200, "degraded"),
        (Health::Critical, 503, "critical"),
    ] {
        let response = answered(health);
        expect_code(&response, code);
        assert!(response.ends_with(&format!("\r\n\r\n{word}\n")), "{response}");
        assert_eq!(serde_json::to_string(&health).unwrap(), format!("\"{word}\""));
    }
}

#[test]
fn statistics_are_those_of_the_control_socket() {
    let response = get("/stats.json", "");
    expect_code(&response, 200);
    let body = response.split_once("\r\n\r\n").unwrap().1;
    let stats: crate::stats::StatsReport = serde_json::from_str(body).unwrap();
    assert_eq!((stats.replies(), stats.dropped()), (2, 2));
}

#[test]
fn head_is_a_get_without_the_body() {
    let without_date = |response: &str| -> Vec<String> {
        response.lines().filter(|line| !line.starts_with("date: ")).map(str::to_owned).collect()
    };
    for target in ["/healthz", "/nothing"] {
        let whole = get(target, "");
        let head = ask(&format!("HEAD {target} HTTP/1.1\r\n{HOST}\r\n"));
        let fields = whole.split_once("\r\n\r\n").unwrap().0;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert_eq!(without_date(head.trim_end()), without_date(fields));
        assert!(fields.contains("connection: close") && fields.contains("cache-control: no-store"));
    }
}

#[test]
fn other_pages_and_methods_are_refused() {
    for target in ["/", "/metrics/", "/METRICS", "//metrics", "/healthz/..", "/stats", "*"] {
        expect_code(&get(target, ""), 404);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"] {
        let response = ask(&format!("{method} /metrics HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nbody"));
        expect_code(&response, 405);
        assert!(response.contains("allow: GET, HEAD\r\n"), "{response}");
    }
    expect_code(&ask(&format!("CONNECT 127.0.0.1:80 HTTP/1.1\r\n{HOST}\r\n")), 404);
}

#[test]
fn hosts_with_a_name_are_refused_but_on_a_unix_socket() {
    let request = |host: &str| format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
    for host in ["Host: pyzor.example.net\r\n", "Host: \r\n", "Host: localhost.\r\n"] {
        expect_code(&ask(&request(host)), 421);
    }
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        expect_code(&ask(&request(hosts)), 400);
    }
    for host in ["", "Host: pyzor.example.net\r\n"] {
        expect_code(&ask_over(Transport::Unix, &request(host)), 200);
    }
    expect_code(&get("http://pyzor.example.net/healthz", ""), 421);
    expect_code(&get("http://localhost/healthz", ""), 200);
    assert!(ask("GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    assert!(ask("GET /healthz HTTP/1.0\r\nHost: a.b\r\n\r\n").starts_with("HTTP/1.0 421 "));
}

#[test]
fn a_connection_has_one_response_whatever_follows_the_request() {
    let second = format!("GET /stats.json HTTP/1.1\r\n{HOST}\r\n");
    for first in [
        format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Connection: keep-alive\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!(
            "GET /healthz HTTP/1.1\r\n{HOST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Content-Length: 0\r\nContent-Length: 40\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Transfer-Encoding: identity, chunked, x\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\n{HOST}Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    ] {
        let response = ask(&format!("{first}{second}"));
        assert_eq!(response.matches("HTTP/1.").count(), 1, "{first}\n{response}");
        assert!(!response.contains("latency_micros"), "{first}\n{response}");
    }
}

#[test]
fn requests_that_are_too_large_or_malformed_are_refused() {
    expect_code(&get("/healthz", &format!("A: {}\r\n", "a".repeat(20_000))), 431);
    expect_code(&get("/healthz", &"A: b\r\n".repeat(100)), 431);
    let long = get(&format!("/{}", "a".repeat(20_000)), "");
    assert!(["HTTP/1.1 414 ", "HTTP/1.1 431 "].iter().any(|start| long.starts_with(start)), "{long}");
    for garbage in
        ["\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /healthz HTTP/1.1\r\nA B\r\n\r\n"]
    {
        let response = ask(garbage);
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{garbage}\n{response}");
    }
    for unfinished in ["", "GET", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"] {
        assert_eq!(ask(unfinished), "");
    }
}
