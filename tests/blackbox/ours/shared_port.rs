//! Several processes on one port.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Caller, Home, Redis, Server, digest, eventually, finish};

/// The number of clients, each with its own port.
const CLIENTS: u32 = 40;
/// The time-out for a reply, much longer than a busy machine needs.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

fn home(redis: &Redis, settings: &str) -> Home {
    let database = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    Home::open().config(&format!("ReusePort = True\n{database}{settings}"))
}

/// Starts a server of the home with its own logs.
pub(crate) fn start(home: &Home, name: &str) -> Server {
    start_at(home, name, "127.0.0.1")
}

fn start_at(home: &Home, name: &str, address: &str) -> Server {
    let mut command = home.command();
    command.args(["-a", address]);
    command.args(["--log-file", &format!("{name}.log"), "--usage-log-file", &format!("{name}.usage")]);
    let server = Server::start(home, command);
    eventually("a server", || home.path(format!("{name}.log")).exists().then_some(()));
    eventually("a server that listens", || {
        home.read(&format!("{name}.log")).contains("Listening on").then_some(())
    });
    server
}

fn requests(home: &Home, name: &str) -> usize {
    home.read(&format!("{name}.usage")).lines().count()
}

/// Returns clients of the home, each with its own port.
pub(crate) fn clients(home: &Home) -> Vec<Caller> {
    (0..CLIENTS).map(|_| home.caller()).collect()
}

/// Pings once from each client at the same time, and expects all replies.
#[track_caller]
pub(crate) fn ping(clients: &[Caller], thread: u32, when: &str) {
    clients.iter().for_each(|client| client.send("ping", &[], thread));
    let is_unanswered = |client: &&Caller| {
        client.receive(REPLY_TIMEOUT).is_none_or(|reply| reply.number("Thread") != i64::from(thread))
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
fn each_process_serves_and_survives_the_end_of_another() {
    let redis = Redis::start();
    let home = home(&redis, "");
    let mut servers = [start(&home, "one"), start(&home, "two")];
    let mut clients = clients(&home);
    report(&mut clients, &digest(1));
    let served = eventually("the usage logs", || {
        let served = ["one", "two"].map(|name| requests(&home, name));
        (served.iter().sum::<usize>() == CLIENTS as usize).then_some(served)
    });
    assert!(served.iter().all(|count| *count > 0), "{served:?}");
    // A reload of one process does not affect the other.
    servers[0].process().signal(Signal::SIGUSR1);
    eventually("a reload", || home.read("one.log").contains("Reloading").then_some(()));
    assert!(!home.read("two.log").contains("Reloading"));
    report(&mut clients, &digest(1));
    for (kill, left) in [(Signal::SIGKILL, 1), (Signal::SIGTERM, 0)] {
        servers[1 - left].process().signal(kill);
        servers[1 - left].ended();
        // The remaining process serves the clients on all ports.
        report(&mut clients, &digest(1));
        let name = ["two", "one"][left];
        servers[1 - left] = start(&home, &format!("{name}-again"));
        report(&mut clients, &digest(1));
    }
    let reported = i64::from(CLIENTS) * 6;
    assert_eq!(clients[0].count(&digest(1)), reported);
    assert_eq!(redis.hash(&format!("pyzord.digest_v1.{}", digest(1)))["r_count"], reported.to_string());
    for server in &mut servers {
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn stopping_process_answers_its_requests_and_hands_new_ones_to_the_others() {
    for address in ["127.0.0.1", "0.0.0.0", "::"] {
        let redis = Redis::start();
        let home = home(&redis, "");
        let [mut stopping, mut staying] = ["one", "two"].map(|name| start_at(&home, name, address));
        let [clients, reporters] = [0, 1].map(|_| clients(&home));
        ping(&clients, 2000, "before the stop");
        redis.signal(Signal::SIGSTOP);
        reporters.iter().for_each(|client| client.send("report", &[&digest(1)], 2000));
        stopping.process().signal(Signal::SIGTERM);
        let mut thread = 2000;
        while stopping.is_running() {
            thread += 1;
            ping(&clients, thread, &format!("{address}, round {thread}"));
            if thread == 2020 {
                redis.signal(Signal::SIGCONT);
            }
        }
        for client in &reporters {
            assert!(client.receive(REPLY_TIMEOUT).is_some(), "{address}: a report got no reply");
        }
        assert_eq!(stopping.ended().code(), Some(0));
        staying.process().signal(Signal::SIGTERM);
        assert_eq!(staying.ended().code(), Some(0));
    }
}

#[test]
fn port_is_shared_only_if_both_processes_set_reuse_port() {
    let redis = Redis::start();
    let home = home(&redis, "");
    let mut shared = start(&home, "one");
    let port = home.port().to_string();
    let alone = Home::open();
    let mut command = home.bare();
    command.arg("--homedir").arg(alone.directory()).args(["-a", "127.0.0.1", "-p", &port]);
    if alone.tells_to_stay_root() {
        command.args(["--user", "root"]);
    }
    let refused = finish(command);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the port is in use by another process"), "{refused:?}");
    shared.process().signal(Signal::SIGTERM);
    assert_eq!(shared.ended().code(), Some(0));
    let _taken = home.take_port();
    let refused = finish(home.command());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("a process that does not share it"), "{refused:?}");
    // The pid file is written before the port is bound, and is removed again.
    let refused = finish(home.detached());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("a process that does not share it"), "{refused:?}");
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn settings_that_need_a_single_process_are_refused() {
    for (settings, texts) in [
        ("", ["ReusePort", "processes cannot share a gdbm file"]),
        ("Engine = redis\nDigestDB = localhost,6379,,0\nReplayGuard = True\n", ["ReusePort", "ReplayGuard"]),
    ] {
        let home = Home::open().config(&format!("ReusePort = True\n{settings}"));
        let mut command = home.command();
        command.arg("--check-config");
        let checked = finish(command);
        let output = checked.stdout + &checked.stderr;
        assert!(checked.code == Some(1) && texts.iter().all(|text| output.contains(text)), "{output}");
        finish(home.command()).expect_line(&texts);
        assert!(!home.path("pyzord.db").exists());
    }
}

#[test]
fn rate_limits_are_reported_to_be_per_process() {
    let redis = Redis::start();
    let home = home(&redis, "RateLimit = 1000\nRateLimitWrites = 5\n");
    let mut server = start(&home, "one");
    let log = home.read("one.log");
    assert!(log.contains("RateLimit, RateLimitWrites: each process on the port counts separately"), "{log}");
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}
