//! What operators see of second opinions: pyzorctl, metrics, and the logs.

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{
    Account, Finished, Home, HttpResponse, PATIENCE, Prometheus, Remote, Server, controller, digest, finish,
    http_get_local, run,
};
use crate::ours::upstream::{HASTY, PATIENT};

/// A homedir with metrics on a socket of its own.
fn home(settings: &str) -> Home {
    let home = Home::open();
    let socket = home.path("metrics.sock");
    home.config(&format!("MetricsAddress = {}\n{settings}", socket.display()))
}

fn metrics(server: &Server) -> HttpResponse {
    http_get_local(&server.home().path("metrics.sock"), "/metrics")
}

/// Runs pyzorctl for a server.
fn said(server: &Server, arguments: &[&str]) -> Finished {
    let mut command = Command::new(controller());
    command.arg("--homedir").arg(server.home().directory()).args(arguments).stdin(Stdio::null());
    finish(command)
}

/// Returns the problems of a server, as pyzorctl reports them.
fn problems(server: &Server) -> Vec<String> {
    let status: Value = serde_json::from_str(&said(server, &["--json", "status"]).stdout).unwrap();
    status["problems"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn check(server: &Server, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(server.request("check", &[&digest(number)]).code(), 200);
    }
}

#[test]
fn operators_see_each_server_and_what_became_of_checks() {
    let bob = Account::new("bob");
    let (good, refusing) = (Remote::counting(7, 2), Remote::refusing(401));
    let names = [good.name(), refusing.name()];
    let home = home(PATIENT).asking(&names).asking_as(&names[0], &bob);
    let server = home.start();
    check(&server, 0..10);
    check(&server, 0..10);
    check(&server, 0..5);
    let status = said(&server, &["status"]);
    for name in &names {
        assert!(status.stdout.contains(name.as_str()), "{name}: {status:?}");
    }
    assert!(status.stdout.contains("bob"), "{status:?}");
    let stats = said(&server, &["stats"]).stdout;
    for part in [names[0].as_str(), &names[1], "401", "\n  waited: p50 "] {
        assert!(stats.contains(part), "{part}: {stats}");
    }
    let opinions = home.opinions();
    let counts = ["asked", "cached_hits", "cached_misses", "found"].map(|name| opinions.count(name));
    assert_eq!(counts, [10, 15, 0, 10], "{opinions:?}");
    assert_eq!((opinions.count_of(&names[0], "answered"), opinions.refused(&names[1], 401)), (10, 10));

    let page = metrics(&server);
    let lines: Vec<&str> = page.body.lines().filter(|line| line.starts_with("pyzord_upstream")).collect();
    for name in &names {
        assert!(lines.iter().any(|line| line.contains(name.as_str())), "{lines:#?}");
    }
    assert!(lines.iter().any(|line| line.ends_with(" 15")), "{lines:#?}");
    assert_eq!(page.metric("pyzord_upstream_wait_duration_seconds_count"), 10.0);
    for secret in ["bob", bob.key()] {
        assert!(!page.body.contains(secret), "{}", page.body);
    }
    let checked = run(Command::new(Prometheus::promtool()).args(["check", "metrics"]), page.body.as_bytes());
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let everything =
        [home.everything_said(), status.stdout, stats, said(&server, &["--json", "status"]).stdout];
    assert!(everything.iter().all(|text| !text.contains(bob.key())));
}

#[test]
fn unavailable_server_is_a_problem_until_it_is_back() {
    let remote = Remote::silent();
    let server = home(HASTY).asking(&[remote.name()]).start();
    let is_problem = || problems(&server).iter().any(|problem| problem.contains(&remote.name()));
    assert!(!is_problem(), "{:?}", problems(&server));
    check(&server, 0..4);
    server.home().opinions_while(&remote.name(), "unavailable");
    assert!(is_problem(), "{:?}", problems(&server));
    assert_eq!(said(&server, &["status"]).code, Some(1));
    let up = format!("pyzord_upstream_up{{server=\"{}\"}}", remote.name());
    assert_eq!(metrics(&server).metric(&up), 0.0);
    remote.follow(|datagram| crate::harness::counting(datagram, (7, 2)));
    crate::harness::eventually("an answer", || {
        (server.request("check", &[&digest(100)]).counts() == (7, 2)).then_some(())
    });
    server.home().opinions_while(&remote.name(), "available");
    assert_eq!(metrics(&server).metric(&up), 1.0);
    assert!(
        !problems(&server).iter().any(|problem| problem.contains("unavailable")),
        "{:?}",
        problems(&server)
    );
}

#[test]
fn nothing_is_shown_without_second_opinions() {
    let server = home("").start();
    check(&server, 0..3);
    assert!(!metrics(&server).body.contains("pyzord_upstream"));
    for command in ["status", "stats"] {
        let shown = said(&server, &[command]).stdout;
        assert!(!shown.to_lowercase().contains("upstream") && !shown.contains("opinion"), "{shown}");
    }
}

/// The line of a check that waits is written with its answer, with the client that asked.
#[test]
fn usage_log_has_one_line_per_check_with_its_peer_and_digest() {
    let remote = Remote::holding(7, 2);
    let home = home(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    let sockets = [2, 3, 4].map(|last| {
        let socket = UdpSocket::bind(("127.0.0.1".replace(".1", &format!(".{last}")), 0)).unwrap();
        socket.connect(("127.0.0.1", server.port())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    // Two of one digest, and one of another with a further digest.
    let digests = [vec![digest(1)], vec![digest(1)], vec![digest(2), digest(3)]];
    for (socket, digests) in sockets.iter().zip(&digests) {
        let lines: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
        let request = format!("Op: check\n{lines}PV: 2.1\nThread: 2000\n\n");
        socket.send(request.as_bytes()).unwrap();
    }
    remote.receives(2);
    assert_eq!(server.request("report", &[&digest(9)]).code(), 200);
    let usage = || home.read("usage.log");
    crate::harness::eventually("the line of the report", || usage().contains(",report,").then_some(()));
    assert!(!usage().contains(",check,"), "{}", usage());
    remote.release();
    for socket in &sockets {
        let length = socket.recv(&mut [0; 1024]).unwrap();
        assert!(length > 0);
    }
    assert!(server.stop().success());
    let usage = usage();
    for (last, digests) in [2, 3, 4].into_iter().zip(&digests) {
        let line = format!(" anonymous,127.0.0.{last},check,['{}'],200", digests.join("', '"));
        assert_eq!(usage.matches(&line).count(), 1, "{line}: {usage}");
    }
    assert_eq!(usage.matches(",check,").count(), 3, "{usage}");
}

#[test]
fn requests_are_counted_once_however_they_are_answered() {
    let remote = Remote::counting(7, 2);
    let home = home(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    check(&server, 0..20);
    check(&server, 0..20);
    assert_eq!(server.request("report", &[&digest(0)]).code(), 200);
    check(&server, 0..1);
    let stats = crate::harness::ask_operator(&home, "stats")["stats"].clone();
    let opinions = home.opinions();
    assert_eq!(opinions.missed(), 40, "{opinions:?}");
    assert_eq!(stats["requests"]["check"]["200"], 41, "{stats}");
}
