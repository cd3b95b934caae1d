//! Several processes on one port.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Home, Redis, eventually, ours_only};
use crate::support::{Caller, Running, Site, digest, finish};

/// How many clients there are, each with a port of its own.
const CLIENTS: u32 = 40;
/// How long a reply is waited for, far beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

fn site(redis: &Redis, settings: &str) -> Site {
    let database = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    Site::at(Home::open().config(&format!("ReusePort = True\n{database}{settings}")))
}

/// A server of the site with logs of its own.
pub(crate) fn start(site: &Site, name: &str) -> Running {
    start_at(site, name, "127.0.0.1")
}

fn start_at(site: &Site, name: &str, address: &str) -> Running {
    let mut command = site.command();
    command.args(["-a", address]);
    command.args(["--log-file", &format!("{name}.log"), "--usage-log-file", &format!("{name}.usage")]);
    let server = Running::start(site, command);
    eventually("a server", || site.path(&format!("{name}.log")).exists().then_some(()));
    eventually("a server that listens", || {
        site.home().read(&format!("{name}.log")).contains("Listening on").then_some(())
    });
    server
}

fn requests(site: &Site, name: &str) -> usize {
    site.home().read(&format!("{name}.usage")).lines().count()
}

/// Clients of the site, each with a port of its own.
pub(crate) fn clients(site: &Site) -> Vec<Caller> {
    (0..CLIENTS).map(|_| site.caller()).collect()
}

/// Pings once from each client at the same time, and expects all replies.
#[track_caller]
pub(crate) fn ping(clients: &[Caller], thread: u32, when: &str) {
    clients.iter().for_each(|client| client.send("ping", &[], thread));
    let is_unanswered = |client: &&Caller| {
        client.receive(PATIENCE).is_none_or(|reply| reply.number("Thread") != i64::from(thread))
    };
    let unanswered = clients.iter().position(|client| is_unanswered(&client));
    assert_eq!(unanswered, None, "a client whose ping got no reply {when}");
}

/// Reports a digest once from each client.
fn report(clients: &mut [Caller], digest: &str) {
    for client in clients {
        assert_eq!(client.answered("report", &[digest]).code(), 200);
    }
}

#[test]
fn each_process_serves_and_goes_on_when_another_is_gone() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let site = site(&redis, "");
    let mut servers = [start(&site, "one"), start(&site, "two")];
    let mut clients = clients(&site);
    report(&mut clients, &digest(1));
    let served = eventually("the usage logs", || {
        let served = ["one", "two"].map(|name| requests(&site, name));
        (served.iter().sum::<usize>() == CLIENTS as usize).then_some(served)
    });
    assert!(served.iter().all(|count| *count > 0), "{served:?}");
    // The other one reads its files again, and nothing happens to this one.
    servers[0].daemon().signal(Signal::SIGUSR1);
    eventually("a reload", || site.home().read("one.log").contains("Reloading").then_some(()));
    assert!(!site.home().read("two.log").contains("Reloading"));
    report(&mut clients, &digest(1));
    for (kill, left) in [(Signal::SIGKILL, 1), (Signal::SIGTERM, 0)] {
        servers[1 - left].daemon().signal(kill);
        servers[1 - left].ended();
        // Whatever port a client has.
        report(&mut clients, &digest(1));
        let name = ["two", "one"][left];
        servers[1 - left] = start(&site, &format!("{name}-again"));
        report(&mut clients, &digest(1));
    }
    let reported = i64::from(CLIENTS) * 6;
    assert_eq!(clients[0].count(&digest(1)), reported);
    assert_eq!(redis.hash(&format!("pyzord.digest_v1.{}", digest(1)))["r_count"], reported.to_string());
    for server in &mut servers {
        server.daemon().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn a_process_that_stops_leaves_new_requests_to_the_others_and_answers_its_own() {
    if !ours_only() {
        return;
    }
    for address in ["127.0.0.1", "0.0.0.0", "::"] {
        let redis = Redis::start();
        let site = site(&redis, "");
        let [mut stopping, mut staying] = ["one", "two"].map(|name| start_at(&site, name, address));
        let [clients, reporters] = [0, 1].map(|_| clients(&site));
        ping(&clients, 2000, "before the stop");
        redis.signal(Signal::SIGSTOP);
        reporters.iter().for_each(|client| client.send("report", &[&digest(1)], 2000));
        stopping.daemon().signal(Signal::SIGTERM);
        let mut thread = 2000;
        while stopping.is_running() {
            thread += 1;
            ping(&clients, thread, &format!("{address}, round {thread}"));
            if thread == 2020 {
                redis.signal(Signal::SIGCONT);
            }
        }
        for client in &reporters {
            assert!(client.receive(PATIENCE).is_some(), "{address}: a report got no reply");
        }
        assert_eq!(stopping.ended().code(), Some(0));
        staying.daemon().signal(Signal::SIGTERM);
        assert_eq!(staying.ended().code(), Some(0));
    }
}

#[test]
fn a_port_is_shared_only_by_processes_that_both_want_it() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let site = site(&redis, "");
    let mut shared = start(&site, "one");
    let port = site.port().to_string();
    let alone = Home::open();
    let mut command = site.bare();
    command.arg("--homedir").arg(alone.path()).args(["-a", "127.0.0.1", "-p", &port]);
    if alone.tells_to_stay_root() {
        command.args(["--user", "root"]);
    }
    let refused = finish(command);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the port is in use by another process"), "{refused:?}");
    shared.daemon().signal(Signal::SIGTERM);
    assert_eq!(shared.ended().code(), Some(0));
    let _taken = site.take_port();
    let refused = finish(site.command());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("a process that does not share it"), "{refused:?}");
    // The pid file is written before the port is bound, and does not stay.
    let refused = finish(site.detached());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("a process that does not share it"), "{refused:?}");
    assert!(!site.path("pyzord.pid").exists());
}

#[test]
fn what_one_process_has_to_know_alone_is_refused() {
    if !ours_only() {
        return;
    }
    for (settings, texts) in [
        ("", ["ReusePort", "a file of gdbm has one process"]),
        ("Engine = redis\nDigestDB = localhost,6379,,0\nReplayGuard = True\n", ["ReusePort", "ReplayGuard"]),
    ] {
        let site = Site::at(Home::open().config(&format!("ReusePort = True\n{settings}")));
        let mut command = site.command();
        command.arg("--check-config");
        let checked = finish(command);
        let said = checked.stdout + &checked.stderr;
        assert!(checked.code == Some(1) && texts.iter().all(|text| said.contains(text)), "{said}");
        finish(site.command()).expect_line(&texts);
        assert!(!site.path("pyzord.db").exists());
    }
}

#[test]
fn limits_of_each_process_are_told() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let site = site(&redis, "RateLimit = 1000\nRateLimitWrites = 5\n");
    let mut server = start(&site, "one");
    let log = site.home().read("one.log");
    assert!(log.contains("RateLimit, RateLimitWrites: each process on the port counts by itself"), "{log}");
    server.daemon().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}
