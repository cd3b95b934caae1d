//! Servers that ask each other.

use crate::harness::{Answer, Home, Remote, Server, ask_on, digest};
use crate::ours::upstream::PATIENT;

/// Servers that ask others. Each edge is a server and one that it asks.
struct Wiring {
    homes: Vec<Home>,
    edges: Vec<(usize, usize)>,
    servers: Vec<Server>,
}

fn name(home: &Home) -> String {
    format!("127.0.0.1:{}", home.port())
}

impl Wiring {
    fn start(count: usize, edges: &[(usize, usize)]) -> Self {
        let homes: Vec<Home> =
            (0..count).map(|_| Home::open().config(&format!("{PATIENT}UpstreamRate = 100000\n"))).collect();
        let names: Vec<String> = homes.iter().map(name).collect();
        let wire = |(at, home): (usize, Home)| {
            let asked = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| &names[*to]);
            home.asking(&asked.collect::<Vec<_>>())
        };
        let homes: Vec<Home> = homes.into_iter().enumerate().map(wire).collect();
        let serve = |home: &Home| {
            let mut server = Server::start(home, home.command());
            server.serves(&mut home.caller());
            server
        };
        let servers = homes.iter().map(serve).collect();
        Self { homes, edges: edges.to_vec(), servers }
    }

    fn check(&self, at: usize, number: u32) -> (i64, i64) {
        self.homes[at].caller().answered("check", &[&digest(number)]).counts()
    }

    /// Checks digests that no server knows, and some that one knows, at each server. The counters show that nothing was
    /// waited for until the timeout, and that each digest was asked for once along each edge.
    #[track_caller]
    fn expect_one_question_each(mut self) {
        const UNKNOWN: u32 = 20;
        let count = self.homes.len();
        for at in 0..count {
            let known = digest(10_000 + at as u32);
            for _ in 0..=at {
                assert_eq!(self.homes[at].caller().answered("report", &[&known]).code(), 200);
            }
        }
        for _ in 0..2 {
            for at in 0..count {
                for number in 0..UNKNOWN {
                    assert_eq!(self.check(at, number), (0, 0));
                }
            }
        }
        for at in 0..count {
            for other in 0..count {
                let is_asked = at == other || self.edges.contains(&(at, other));
                let expected = if is_asked { other as i64 + 1 } else { 0 };
                assert_eq!(self.check(at, 10_000 + other as u32), (expected, 0), "{at} of {other}");
            }
        }
        let asked = u64::from(UNKNOWN) + count as u64 - 1;
        for (at, home) in self.homes.iter().enumerate() {
            let opinions = home.opinions();
            assert_eq!((opinions.count("asked"), opinions.count("unanswered")), (asked, 0), "{opinions:?}");
            for (_, to) in self.edges.iter().filter(|(from, _)| *from == at) {
                let counts =
                    ["sent", "answered", "silent"].map(|it| opinions.count_of(&name(&self.homes[*to]), it));
                assert_eq!(counts, [asked, asked, 0], "{opinions:?}");
            }
            // Those that came from a server of ours, and found nothing here.
            let askers = self.edges.iter().filter(|(_, to)| *to == at).count() as u64;
            assert_eq!(opinions.declined("local_only"), askers * (asked - 1), "{opinions:?}");
        }
        for server in &mut self.servers {
            assert!(server.is_running());
        }
    }
}

#[test]
fn two_servers_that_ask_each_other_do_not_wait_for_each_other() {
    Wiring::start(2, &[(0, 1), (1, 0)]).expect_one_question_each();
}

/// A server that cannot know that it asks itself: through a relay, as behind a router that translates addresses.
#[test]
fn server_that_asks_itself_by_a_detour_does_not_wait_for_itself() {
    let remote = Remote::silent();
    let home = Home::open().config(PATIENT).asking(&[remote.name()]);
    let server = home.start();
    let socket = server.socket();
    remote.follow(move |datagram| Answer::Reply(ask_on(&socket, &datagram.bytes)));
    for number in 0..10 {
        assert_eq!(server.request("check", &[&digest(number)]).counts(), (0, 0));
    }
    let opinions = home.opinions();
    let counts = ["asked", "not_found", "unanswered"].map(|name| opinions.count(name));
    assert_eq!((counts, opinions.declined("local_only")), ([10, 10, 0], 10), "{opinions:?}");
}

/// A server answers for itself alone, so what is two steps away is not found.
#[test]
fn ring_of_three_servers_does_not_go_round() {
    Wiring::start(3, &[(0, 1), (1, 2), (2, 0)]).expect_one_question_each();
}

#[test]
fn three_servers_may_all_ask_each_other() {
    let edges: Vec<(usize, usize)> =
        (0..3).flat_map(|at| (0..3).filter(move |to| *to != at).map(move |to| (at, to))).collect();
    Wiring::start(3, &edges).expect_one_question_each();
}

/// The set-up of the documentation: sites forward to the centre, and ask it.
#[test]
fn report_at_one_site_is_found_at_another() {
    let centre = Home::open();
    let centre_name = name(&centre);
    let mut server = Server::start(&centre, centre.command());
    server.serves(&mut centre.caller());
    let sites = [1, 2].map(|_| {
        let settings = format!("{PATIENT}ForwardDelay = 0\nUpstreamMissAge = 1\n");
        let home = Home::open().config(&settings).asking(&[&centre_name]);
        let directory = home.upstream_directory().display().to_string();
        home.arguments(&["--forward-client-homedir", &directory]).start()
    });
    let spam = digest(1);
    assert_eq!(sites[1].request("check", &[&spam]).counts(), (0, 0));
    assert_eq!(sites[0].request("report", &[&spam]).code(), 200);
    let found = |site: &Server, counts: (i64, i64)| {
        crate::harness::eventually("the counts", || {
            (site.request("check", &[&spam]).counts() == counts).then_some(())
        });
    };
    // As soon as the miss is too old.
    found(&sites[1], (1, 0));
    // The second report at the other site has a count of its own there, and two at the centre.
    assert_eq!(sites[1].request("report", &[&spam]).code(), 200);
    assert_eq!(sites[1].request("check", &[&spam]).counts(), (1, 0));
    crate::harness::eventually("both reports", || (centre.caller().count(&spam) == 2).then_some(()));
    // A question is no report, and an answer is not forwarded.
    assert!(server.is_running());
    let [one, two] = sites;
    let homes = [one.home().clone(), two.home().clone()];
    assert!(one.stop().success() && two.stop().success());
    server.process().stop();
    assert_eq!(homes.each_ref().map(Home::stored), [[(spam.clone(), 1)].into(), [(spam.clone(), 1)].into()]);
    assert_eq!(centre.stored(), [(spam, 2)].into());
}
