//! Servers that forward to Python servers, and those back to ours. These neither send ids nor pass any on.

use crate::harness::{Account, Home, Server, digest, eventually, interop};

/// The number of digests in a round. The established server forwards ten at a time, and nothing before.
const ROUND: u32 = 10;

fn name(home: &Home) -> String {
    format!("127.0.0.1:{}", home.port())
}

fn serve(home: &Home) -> Server {
    let mut server = Server::start(home, home.command());
    server.serves(&mut home.caller());
    server
}

fn established() -> Home {
    Home::open().program(interop("pyzord"))
}

/// Returns the digests of a round.
fn round(number: u32) -> Vec<String> {
    (0..ROUND).map(|at| digest(100 * number + at)).collect()
}

/// Reports the digests of a round one by one.
fn report(home: &Home, number: u32) {
    let mut caller = home.caller();
    for digest in round(number) {
        assert_eq!(caller.answered("report", &[&digest]).code(), 200);
    }
}

/// Returns the count of each digest of a round.
fn counts(home: &Home, number: u32) -> Vec<i64> {
    let mut caller = home.caller();
    round(number).iter().map(|digest| caller.count(digest)).collect()
}

#[track_caller]
fn expect_counts(home: &Home, number: u32, count: i64) {
    eventually("all reports of the round", || {
        (counts(home, number).iter().min() >= Some(&count)).then_some(())
    });
    assert_eq!(counts(home, number), [count; ROUND as usize], "round {number}");
}

/// Starts ours and a number of established servers in a ring, and reports several rounds to ours. Each round follows the
/// earlier ones around the ring, so what went on circling would be counted again meanwhile.
fn expect_nothing_circulates(others: usize) {
    let homes: Vec<Home> = std::iter::once(Home::open()).chain((0..others).map(|_| established())).collect();
    let names: Vec<String> = homes.iter().map(name).collect();
    let next = |at: usize| &names[(at + 1) % names.len()];
    let homes: Vec<Home> =
        homes.into_iter().enumerate().map(|(at, home)| home.forwarding_to(&[next(at)])).collect();
    let _servers: Vec<Server> = homes.iter().map(serve).collect();
    for number in 1..5 {
        report(&homes[0], number);
        expect_counts(&homes[0], number, 2);
    }
    // A report to an established server comes to ours once.
    report(&homes[1], 5);
    expect_counts(&homes[0], 5, 1);
    report(&homes[0], 6);
    expect_counts(&homes[0], 6, 2);
    for number in 1..7 {
        // Ours does not pass on what comes from the last established server.
        let at_ours = if number == 5 { 1 } else { 2 };
        assert_eq!(counts(&homes[0], number), [at_ours; ROUND as usize], "round {number}");
        for other in &homes[1..] {
            assert_eq!(counts(other, number), [1; ROUND as usize], "round {number}");
        }
    }
    let log = homes[0].log();
    assert_eq!(log.matches("name the sender in ForwardFrom").count(), 1, "one line a minute: {log}");
}

#[test]
fn nothing_circulates_in_a_pair_with_an_established_server() {
    expect_nothing_circulates(1);
}

#[test]
fn nothing_circulates_in_a_ring_with_two_established_servers() {
    expect_nothing_circulates(2);
}

#[test]
fn what_an_established_server_forwards_is_passed_on_only_for_senders_in_forward_from() {
    let bob = Account::new("bob");
    for (settings, arrives) in [
        ("", false),
        ("ForwardFrom = 192.0.2.0/24 eve\n", false),
        ("ForwardFrom = 127.0.0.0/8\n", true),
        ("ForwardFrom = eve, bob\n", true),
    ] {
        let (last, ours) = (Home::open(), Home::open().config(&format!("ForwardDelay = 0\n{settings}")));
        let ours = ours.passwd(bob.passwd()).access("all : bob anonymous : allow\n");
        let ours_name = name(&ours);
        let first = established().forwarding_to(&[&ours_name]).forwarding_as(&ours_name, &bob);
        let ours = ours.forwarding_to(&[name(&last)]);
        let _servers = [&last, &ours, &first].map(serve);
        report(&first, 1);
        expect_counts(&ours, 1, 1);
        // What comes later from a client shows that what was to be passed on has arrived.
        report(&ours, 2);
        expect_counts(&last, 2, 1);
        if arrives {
            expect_counts(&last, 1, 1);
        } else {
            assert_eq!(counts(&last, 1), [0; ROUND as usize], "{settings}");
        }
        assert_eq!(ours.log().contains("name the sender in ForwardFrom"), !arrives, "{}", ours.log());
    }
}
