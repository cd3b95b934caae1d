//! What operators see of forwarding: pyzorctl, metrics, and the log line of each minute.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Account, Answer, DIGEST, Datagram, Finished, Home, HttpResponse, Prometheus, Remote, Server, accept,
    controller, digest, eventually, finish, http_get_local, lines, run,
};

/// A homedir with metrics on a socket of its own.
fn home(settings: &str) -> Home {
    let home = Home::open();
    let socket = home.path("metrics.sock");
    home.config(&format!("MetricsAddress = {}\nForwardDelay = 0\n{settings}", socket.display()))
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

/// Reports this number of digests, in requests of ten.
fn report(server: &Server, digests: std::ops::Range<u32>) {
    let all: Vec<String> = digests.map(digest).collect();
    for ten in all.chunks(10) {
        let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
        assert_eq!(server.request("report", &ten).code(), 200);
    }
}

#[test]
fn servers_are_shown_with_their_states_and_what_they_have_counted() {
    let (accepting, refusing, silent) = (Remote::accepting(), Remote::refusing(401), Remote::silent());
    let bob = Account::new("bob");
    let names = [&accepting, &refusing, &silent].map(Remote::name);
    let [one, two, three] = names.each_ref().map(String::as_str);
    let home = home("").forwarding_to(&names).forwarding_as(one, &bob);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(&server, 0..40);
    for name in &names {
        home.forwarding_settled(name, 40);
    }
    home.forwarding_with(three, "the silent server to be unavailable", |it| it.state() == "unavailable");

    let status = said(&server, &["status"]);
    assert_eq!(status.code, Some(1), "{status:?}");
    for part in [
        "degraded: forwarding to ".to_owned(),
        format!("  problem      forwarding to {two}: 40 digests refused in the last minute"),
        format!("  problem      forwarding to {three}: unavailable for "),
        format!("  forwarding   {one} as bob: available for "),
        format!("  forwarding   {two} as anonymous: available for "),
        format!("  forwarding   {three} as anonymous: unavailable for "),
        "; 0 digests queued, 0 requests in flight\n".to_owned(),
    ] {
        assert!(status.stdout.contains(&part), "{part}:\n{}", status.stdout);
    }
    let order = |name: &str| status.stdout.find(&format!("  forwarding   {name} "));
    assert!(order(one) < order(two) && order(two) < order(three), "{}", status.stdout);

    let stats = said(&server, &["stats"]).stdout;
    let row = |name: &str| -> Vec<String> {
        let row = stats.lines().find_map(|line| line.strip_prefix(&format!("  {name} ")));
        row.unwrap_or_else(|| panic!("{stats}")).split_whitespace().map(str::to_owned).collect()
    };
    assert!(stats.contains("  digests forwarded to "), "{stats}");
    assert!(stats.contains("  accepted  refused 401  silent  dropped  requests\n"), "{stats}");
    assert_eq!(row(one), ["40", "0", "0", "0", "4"]);
    assert_eq!(row(two), ["0", "40", "0", "0", "4"]);
    assert_eq!(row(three), ["0", "0", "40", "0", "4"]);

    let page = metrics(&server);
    let of = |family: &str, name: &str, more: &str| {
        page.metric(&format!("pyzord_forward_{family}{{server=\"{name}\"{more}}}"))
    };
    assert_eq!([one, two, three].map(|name| of("up", name, "")), [1.0, 1.0, 0.0]);
    assert_eq!([one, two, three].map(|name| of("requests_total", name, "")), [4.0; 3]);
    assert_eq!(of("digests_total", one, ",outcome=\"accepted\""), 40.0);
    assert_eq!(of("digests_total", two, ",outcome=\"refused\""), 40.0);
    assert_eq!(of("digests_total", three, ",outcome=\"silent\""), 40.0);
    assert_eq!(of("refused_digests_total", two, ",code=\"401\""), 40.0);
    assert_eq!(page.metric("pyzord_health"), 1.0);
    for secret in ["bob", bob.key(), "anonymous:"] {
        assert!(!page.body.contains(secret), "{}", page.body);
    }
    let checked = run(Command::new(Prometheus::promtool()).args(["check", "metrics"]), page.body.as_bytes());
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let said = home.everything_said();
    assert!(!said.contains(bob.key()), "{said}");
}

#[test]
fn servers_that_are_back_or_removed_are_no_problems() {
    let (silent, refusing) = (Remote::silent(), Remote::refusing(403));
    let names = [silent.name(), refusing.name()];
    // The columns of the accounts file may be mixed up.
    let key = "0123456789abcdef".repeat(3);
    let home = home("").forwarding_to(&names).forwarding_as(&names[1], &Account::with_key(&key, "bob"));
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(&server, 0..40);
    let is = |state: &'static str| {
        home.forwarding_with(&names[0], state, |it| it.state() == state);
    };
    is("unavailable");
    assert_eq!(problems(&server).len(), 3);
    assert_eq!(metrics(&server).metric(&format!("pyzord_forward_up{{server=\"{}\"}}", names[0])), 0.0);
    silent.follow(accept);
    is("available");
    assert_eq!(metrics(&server).metric(&format!("pyzord_forward_up{{server=\"{}\"}}", names[0])), 1.0);
    for everything in [home.everything_said(), said(&server, &["status"]).stdout] {
        assert!(everything.contains("may be a key") && !everything.contains(&key), "{everything}");
    }
    let mut left = problems(&server);
    // Lasts for a minute.
    let is_silence = |problem: &String| problem.contains(": 40 digests without a reply in the last minute");
    left.retain(|problem| !is_silence(problem));
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(&format!("forwarding to {}: 40 digests refused", names[1])), "{left:?}");

    home.remotes_file("servers", &lines(&names[..1]));
    let reloaded = said(&server, &["reload"]);
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    assert!(reloaded.stdout.contains(&names[1]) && !reloaded.stdout.contains(&key), "{reloaded:?}");
    eventually("the removed server to be gone", || home.find_forwarding(&names[1]).is_none().then_some(()));
    assert!(problems(&server).iter().all(is_silence), "{:?}", problems(&server));
    let page = metrics(&server).body;
    assert!(page.contains(&names[0]) && !page.contains(&names[1]), "{page}");
}

/// Two of three requests are lost, which is no outage.
#[test]
fn lost_digests_are_a_problem() {
    let mut number = 0;
    let remote = Remote::start(move |it: &Datagram| {
        number += 1;
        if number % 3 == 0 { accept(it) } else { Answer::Silence }
    });
    let server = home("").forwarding_to(&[remote.name()]).start();
    let home = server.home();
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    assert_eq!(said(&server, &["reload"]).code, Some(0));
    for request in 0..3 {
        report(&server, 10 * request..10 * request + 10);
        remote.receives(10 * request as usize + 10);
    }
    // The state, and not the counters, which are asked for after it.
    let lossy = home.forwarding_with(&remote.name(), "two of three requests to be lost", |it| {
        it.number("silent_last_minute") == 20
    });
    assert_eq!(lossy.number("accepted_last_minute"), 10, "{lossy:?}");
    let problem = format!("forwarding to {}: 20 digests without a reply in the last minute", remote.name());
    assert!(problems(&server).iter().any(|line| line.starts_with(&problem)), "{:?}", problems(&server));
    assert_eq!(said(&server, &["status"]).code, Some(1));
}

#[test]
fn copies_of_forwarded_requests_are_counted() {
    let server = home("").start();
    assert_eq!(metrics(&server).metric("pyzord_forward_copies_total"), 0.0);
    assert!(!metrics(&server).body.contains("pyzord_forward_up"));
    let request = format!(
        "Op: report\nOp-Spec: 20,3,60,3\nOp-Digest: {DIGEST}\nForward-Id: 0123456789abcdef-7-1\nThread: 5000\nPV: 2.1\n"
    );
    for _ in 0..3 {
        server.ask(&request);
    }
    assert_eq!(server.request("check", &[DIGEST]).counts(), (1, 0));
    assert_eq!(metrics(&server).metric("pyzord_forward_copies_total"), 2.0);
    let stats = said(&server, &["stats"]).stdout;
    assert!(stats.contains("  copies       2 forwarded requests not counted again\n"), "{stats}");
    assert!(!stats.contains("digests forwarded to"), "{stats}");
}

#[test]
fn what_is_not_delivered_is_logged_each_minute_and_a_problem_for_a_minute() {
    let (closed, refusing) = (closed(), Remote::refusing(401));
    let names = [closed.name(), refusing.name()];
    let server = home("ForwardQueue = 10\n").forwarding_to(&names).start();
    let home = server.home();
    home.forwarding_with(&names[0], "the closed server to be unavailable", |it| {
        // Only a request can find out.
        report(&server, 0..10);
        it.state() == "unavailable"
    });
    report(&server, 0..40);
    home.forwarding_with(&names[1], "digests to be refused", |it| it.refused(401) > 0);
    let texts = ["unavailable for", "dropped in the last minute", "refused in the last minute"];
    let found = |text: &str| problems(&server).iter().any(|problem| problem.contains(text));
    assert_eq!(texts.map(found), [true; 3], "{:?}", problems(&server));
    // A minute must pass anyway, and is longer than any other wait.
    thread::sleep(Duration::from_secs(20));
    assert_eq!(texts.map(found), [true; 3], "{:?}", problems(&server));
    eventually("the line of the minute", || {
        let log = home.log();
        let has = |name: &str, outcome: &str| {
            log.lines().any(|line| {
                line.contains(&format!("Forwarding to {name} since the last report: "))
                    && line.contains(outcome)
            })
        };
        (has(&names[0], " digests dropped and not sent")
            && has(&names[1], " refused with code 401, 0 accepted"))
        .then_some(())
    });
    eventually("recent problems to end", || (texts.map(found) == [true, false, false]).then_some(()));
}

/// A server that is not running.
fn closed() -> Remote {
    Remote::closed_at("127.0.0.1", crate::harness::free_port_at("127.0.0.1"), accept)
}
