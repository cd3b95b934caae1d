//! Sentinels that name different masters.

use crate::engines::done;
use crate::engines::redis::{home, key, refusal};
use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Redis, eventually, free_port};

/// Starts a sentinel that names this master.
fn naming(host: &str, master: &Redis) -> Redis {
    let resolve = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n";
    Redis::sentinel(host, master.port(), |port| format!("port {port}\n{resolve}"), &[])
}

fn dsn(sentinels: &[&Redis]) -> String {
    let hosts: Vec<String> = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
    format!("redis+sentinel://{}/counts", hosts.join(","))
}

fn count(redis: &Redis) -> String {
    redis.cli(&["hget", &key(DIGEST), "r_count"]).trim().to_owned()
}

#[test]
fn master_with_the_most_votes_is_used() {
    let (master, former) = (Redis::start(), Redis::start());
    let (stale, one, another) =
        (naming("127.0.0.1", &former), naming("127.0.0.1", &master), naming("127.0.0.1", &master));
    let home = home(&dsn(&[&stale, &one, &another]), "");
    let server = home.start();
    // The sentinels are queried for each new connection.
    for round in 1..=20 {
        let code = || server.request("report", &[DIGEST]).code();
        eventually("service", || (code() == 200).then_some(()));
        assert_eq!((count(&master), count(&former)), (round.to_string(), String::new()));
        master.cli(&["client", "kill", "type", "normal"]);
        eventually("the loss", || (home.log().matches(" is unavailable: ").count() == round).then_some(()));
    }
    assert!(!home.log().contains("another master"), "{}", home.log());
    another.monitor(former.port());
    eventually("the new master to be followed", || {
        server.request("report", &[DIGEST]);
        (!count(&former).is_empty()).then_some(())
    });
    let (before, left) = (count(&former).parse::<i64>().unwrap(), count(&master));
    (0..5).for_each(|_| drop(done(&server, "report", DIGEST)));
    assert_eq!((count(&master), count(&former)), (left.clone(), (before + 5).to_string()));

    // On a tie the server keeps its master, even with a new connection.
    another.cli(&["sentinel", "remove", "counts"]);
    let losses = home.log().matches(" is unavailable: ").count();
    former.cli(&["client", "kill", "type", "normal"]);
    eventually("the loss", || (home.log().matches(" is unavailable: ").count() > losses).then_some(()));
    eventually("service", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!((count(&master), count(&former)), (left, (before + 6).to_string()));
}

#[test]
fn start_fails_if_sentinels_disagree_without_a_majority() {
    let (master, other) = (Redis::start(), Redis::start());
    let (one, another) = (naming("127.0.0.1", &master), naming("127.0.0.1", &other));
    let line = refusal(&home(&dsn(&[&one, &another]), ""));
    assert!(line.contains("disagree"), "{line}");
    for redis in [&master, &other] {
        assert!(line.contains(&redis.port().to_string()), "{line}");
    }
}

#[test]
fn votes_for_a_host_name_and_its_address_are_added_up() {
    let (master, former) = (Redis::start(), Redis::start());
    let (stale, named, addressed) =
        (naming("127.0.0.1", &former), naming("localhost", &master), naming("127.0.0.1", &master));
    assert!(named.cli(&["sentinel", "get-master-addr-by-name", "counts"]).starts_with("localhost\n"));
    let home = home(&dsn(&[&stale, &named, &addressed]), "");
    let server = home.start();
    // The only sentinel of the former master switches to the new one. Then the other sentinels forget the service, so
    // that they name no master.
    stale.monitor(master.port());
    for sentinel in [&named, &addressed] {
        let before = count(&master).parse().unwrap_or(0);
        sentinel.cli(&["sentinel", "remove", "counts"]);
        done(&server, "report", DIGEST);
        // Longer than the interval of the checks.
        std::thread::sleep(std::time::Duration::from_secs(2));
        done(&server, "report", DIGEST);
        assert_eq!((count(&master), count(&former)), ((before + 2).to_string(), String::new()));
    }
    assert!(!home.log().contains(" is unavailable"), "{}", home.log());
}

#[test]
fn minority_cannot_replace_the_master_while_other_sentinels_hang() {
    let (master, other) = (Redis::start(), Redis::start());
    let (one, another, stale) =
        (naming("127.0.0.1", &master), naming("127.0.0.1", &master), naming("127.0.0.1", &other));
    let home = home(&dsn(&[&stale, &one, &another]), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    one.signal(Signal::SIGSTOP);
    another.signal(Signal::SIGSTOP);
    // Long enough for several queries, on the current connection and on new ones.
    let mut acknowledged = 1;
    for round in 1..=20 {
        std::thread::sleep(std::time::Duration::from_millis(150));
        acknowledged += i64::from(server.request("report", &[DIGEST]).code() == 200);
        if round % 10 == 0 {
            master.cli(&["client", "kill", "type", "normal"]);
            eventually("service", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
        }
    }
    one.signal(Signal::SIGCONT);
    another.signal(Signal::SIGCONT);
    assert_eq!((count(&master), count(&other)), (acknowledged.to_string(), String::new()), "{}", home.log());
    assert!(!home.log().contains("another master"), "{}", home.log());
}

#[test]
fn master_of_a_minority_is_used_after_a_while_with_a_warning() {
    let master = Redis::start();
    let one = naming("127.0.0.1", &master);
    let [gone, gone_too] = [free_port(), free_port()];
    let dsn =
        format!("redis+sentinel://127.0.0.1:{gone},127.0.0.1:{gone_too},127.0.0.1:{}/counts", one.port());
    let home = home(&dsn, "");
    let server = home.start();
    done(&server, "report", DIGEST);
    assert_eq!(count(&master), "1");
    let log = home.everything_said();
    assert!(log.contains("only 1 of 3 sentinels name the master"), "{log}");
    assert!(
        log.contains("no majority of the sentinels names a master") && log.contains("which 1 of 3 name"),
        "{log}"
    );
}

#[test]
fn usable_master_is_kept_if_only_a_minority_names_another() {
    let (master, other) = (Redis::start(), Redis::start());
    let (one, another, stale) =
        (naming("127.0.0.1", &master), naming("127.0.0.1", &master), naming("127.0.0.1", &other));
    let home = home(&dsn(&[&stale, &one, &another]), "");
    let server = home.start();
    for sentinel in [&one, &another] {
        sentinel.cli(&["sentinel", "remove", "counts"]);
    }
    let lose_and_report = |round: usize| {
        master.cli(&["client", "kill", "type", "normal"]);
        eventually("the loss", || (home.log().matches(" is unavailable: ").count() == round).then_some(()));
        eventually("service", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
        assert_eq!((count(&master), count(&other)), (round.to_string(), String::new()), "{}", home.log());
    };
    lose_and_report(1);
    // Longer than the wait for a majority.
    std::thread::sleep(std::time::Duration::from_secs(6));
    lose_and_report(2);
}

#[test]
fn sentinel_with_two_addresses_has_one_vote() {
    let (master, other) = (Redis::start(), Redis::start());
    let (stale, one) = (naming("127.0.0.1", &other), naming("127.0.0.1", &master));
    let twice = format!("127.0.0.1:{},localhost:{}", stale.port(), stale.port());
    let home = home(&format!("redis+sentinel://{twice},127.0.0.1:{}/counts", one.port()), "");
    let line = refusal(&home);
    assert!(line.contains("the sentinels disagree"), "{line}");
    assert!(home.everything_said().contains("only one vote"), "{}", home.everything_said());
}

#[test]
fn duplicate_sentinel_is_refused() {
    let line = refusal(&home("redis+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:1/counts", ""));
    assert!(line.contains("127.0.0.1:1 is named twice"), "{line}");
}
