//! Servers that forward to each other: each report counts once in each database, whatever the wiring.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::{Account, Home, Redis, Server, ask_operator, digest, eventually};

/// The digest that is reported to every server, twice in one request.
const SHARED: u32 = 99_999;

/// Servers, and to whom each of them forwards.
struct Wiring {
    homes: Vec<Home>,
    edges: Vec<(usize, usize)>,
    /// The database of each server.
    databases: Vec<usize>,
    servers: Vec<Server>,
}

impl Wiring {
    /// Starts servers with databases of their own. Each edge is a server and one to which it forwards.
    fn start(count: usize, edges: &[(usize, usize)]) -> Self {
        let homes = (0..count).map(|_| Home::open().config("ForwardDelay = 0\n")).collect();
        Self::start_homes(homes, edges, (0..count).collect())
    }

    fn start_homes(homes: Vec<Home>, edges: &[(usize, usize)], databases: Vec<usize>) -> Self {
        let names: Vec<String> = homes.iter().map(name).collect();
        let wire = |(at, home): (usize, Home)| {
            let targets: Vec<&String> =
                edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| &names[*to]).collect();
            if targets.is_empty() { home } else { home.forwarding_to(&targets) }
        };
        let homes: Vec<Home> = homes.into_iter().enumerate().map(wire).collect();
        let servers = homes.iter().map(serve).collect();
        Self { homes, edges: edges.to_vec(), databases, servers }
    }

    /// Reports to every server, waits until all is quiet, and compares the counts of all digests.
    #[track_caller]
    fn expect_each_report_once(&self) {
        let mut reported = BTreeMap::<String, Vec<usize>>::new();
        let mut whitelisted = BTreeMap::<String, Vec<usize>>::new();
        for at in 0..self.homes.len() {
            let mut caller = self.homes[at].caller();
            let own = |number: u32| digest(1000 * (at as u32 + 1) + number);
            let mut requests: Vec<(&str, Vec<String>)> =
                (0..12).map(|number| ("report", vec![own(number)])).collect();
            requests.push(("report", vec![own(0), digest(SHARED), digest(SHARED)]));
            requests.push(("report", (100..125).map(own).collect()));
            requests.push(("whitelist", vec![own(0), own(200), own(200)]));
            for (operation, digests) in requests {
                let texts: Vec<&str> = digests.iter().map(String::as_str).collect();
                assert_eq!(caller.answered(operation, &texts).code(), 200);
                let counted = if operation == "report" { &mut reported } else { &mut whitelisted };
                digests.into_iter().for_each(|digest| counted.entry(digest).or_default().push(at));
            }
        }
        let digests: BTreeSet<String> = reported.keys().chain(whitelisted.keys()).cloned().collect();
        let expected = |server: usize| -> Vec<(i64, i64)> {
            let reached = |counted: &BTreeMap<String, Vec<usize>>, digest: &String| {
                let at = counted.get(digest).map_or(&[][..], Vec::as_slice);
                at.iter().filter(|from| self.reaches(**from, server)).count() as i64
            };
            digests.iter().map(|digest| (reached(&reported, digest), reached(&whitelisted, digest))).collect()
        };
        let expected: Vec<Vec<(i64, i64)>> = (0..self.homes.len()).map(expected).collect();
        eventually("all reports to arrive", || {
            let is_there =
                |(got, expected): (&(i64, i64), &(i64, i64))| got.0 >= expected.0 && got.1 >= expected.1;
            let all = self.counts(&digests);
            let all = all.iter().flatten().zip(expected.iter().flatten());
            all.into_iter().all(is_there).then_some(())
        });
        self.settle();
        for (server, (got, expected)) in self.counts(&digests).iter().zip(&expected).enumerate() {
            for ((digest, got), expected) in digests.iter().zip(got).zip(expected) {
                assert_eq!(got, expected, "{digest} at server {server} of {:?}", self.edges);
            }
        }
    }

    /// Whether a report at one server comes to the database of another one.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut reached = BTreeSet::from([from]);
        loop {
            let next = self.edges.iter().filter(|(from, _)| reached.contains(from)).map(|(_, to)| *to);
            let next: Vec<usize> = next.filter(|to| !reached.contains(to)).collect();
            if next.is_empty() {
                return reached.iter().any(|server| self.databases[*server] == self.databases[to]);
            }
            reached.extend(next);
        }
    }

    /// Returns the counts of all digests at each server.
    fn counts(&self, digests: &BTreeSet<String>) -> Vec<Vec<(i64, i64)>> {
        let of = |home: &Home| {
            let mut caller = home.caller();
            digests.iter().map(|digest| caller.answered("check", &[digest]).counts()).collect()
        };
        self.homes.iter().map(of).collect()
    }

    /// Waits until nothing waits or is in flight, and no server answers anything any more.
    fn settle(&self) {
        let mut before = None;
        eventually("all servers to be quiet", || {
            let now: Vec<Value> =
                self.homes.iter().map(|home| ask_operator(home, "stats")["stats"].clone()).collect();
            let now: Vec<Value> = now.into_iter().map(|stats| stats["requests"].clone()).collect();
            let is_idle = |home: &Home| {
                let status = ask_operator(home, "status")["status"]["forwarding"].clone();
                let servers = status.as_array().cloned().unwrap_or_default();
                servers.iter().all(|server| server["queued"] == 0 && server["in_flight"] == 0)
            };
            let is_quiet = self.homes.iter().all(is_idle) && before.as_ref() == Some(&now);
            before = Some(now);
            is_quiet.then_some(())
        });
    }

    /// Returns the number of copies that a server has recognized by their ids.
    fn copies(&self, server: usize) -> u64 {
        ask_operator(&self.homes[server], "stats")["stats"]["forward_copies"].as_u64().unwrap()
    }
}

/// Returns the line of a servers file for the server of this homedir.
fn name(home: &Home) -> String {
    format!("127.0.0.1:{}", home.port())
}

/// Starts the server of a homedir on its port.
fn serve(home: &Home) -> Server {
    let mut server = Server::start(home, home.command());
    server.serves(&mut home.caller());
    server
}

/// Returns the edges of a ring.
fn ring(count: usize) -> Vec<(usize, usize)> {
    (0..count).map(|at| (at, (at + 1) % count)).collect()
}

/// Returns edges in both directions.
fn mutual(edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    edges.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]).collect()
}

#[test]
fn two_servers_that_forward_to_each_other_count_once() {
    let wiring = Wiring::start(2, &ring(2));
    wiring.expect_each_report_once();
    assert!(wiring.copies(0) > 0 && wiring.copies(1) > 0, "nothing came back, so the test shows nothing");
}

#[test]
fn ring_of_three_with_accounts_counts_once() {
    let bob = Account::new("bob");
    let settings = "ReplayGuard = true\nForwardRetries = 3\n";
    let home = || Home::open().config(settings).passwd(bob.passwd()).access("all : bob anonymous : allow\n");
    let homes: Vec<Home> = (0..3).map(|_| home()).collect();
    let names: Vec<String> = homes.iter().map(name).collect();
    let wiring = Wiring {
        homes: (homes.into_iter().zip(ring(3)))
            .map(|(home, (_, to))| home.forwarding_to(&[&names[to]]).forwarding_as(&names[to], &bob))
            .collect(),
        edges: ring(3),
        databases: (0..3).collect(),
        servers: Vec::new(),
    };
    let wiring = Wiring { servers: wiring.homes.iter().map(serve).collect(), ..wiring };
    wiring.expect_each_report_once();
    let accounts = ask_operator(&wiring.homes[0], "stats")["stats"]["accounts"].as_u64().unwrap();
    assert!(accounts > 0);
}

#[test]
fn ring_of_five_counts_once() {
    Wiring::start(5, &ring(5)).expect_each_report_once();
}

#[test]
fn chain_with_links_in_both_directions_counts_once() {
    Wiring::start(4, &mutual(&[(0, 1), (1, 2), (2, 3)])).expect_each_report_once();
}

#[test]
fn two_ways_to_one_server_count_once() {
    let wiring = Wiring::start(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
    wiring.expect_each_report_once();
    assert!(wiring.copies(3) > 0);
}

#[test]
fn full_mesh_counts_once() {
    let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    Wiring::start(4, &mutual(&pairs)).expect_each_report_once();
}

#[test]
fn processes_on_one_database_count_once_with_the_same_origin() {
    let stores = [Redis::start(), Redis::start()];
    let settings = |at: usize| {
        let (store, origin) = (&stores[at / 3], ["00000000000000aa", "00000000000000bb"][at / 3]);
        let port = store.port();
        format!(
            "Engine = redis\nDigestDB = 127.0.0.1,{port},,0\nForwardDelay = 0\nForwardOrigin = {origin}\n"
        )
    };
    // All six processes forward but for one, and each names one process of the other database only.
    let homes = (0..6).map(|at| Home::open().config(&settings(at))).collect();
    let edges = [(0, 3), (1, 3), (2, 3), (3, 0), (4, 0)];
    let wiring = Wiring::start_homes(homes, &edges, vec![0, 0, 0, 1, 1, 1]);
    wiring.expect_each_report_once();
    assert!(wiring.copies(0) > 0 && wiring.copies(3) > 0);
}

#[test]
fn report_of_a_restarted_server_is_recognized_by_its_origin() {
    let mut wiring = Wiring::start(2, &ring(2));
    let origin = wiring.homes[0].read("pyzord.origin");
    assert!(!origin.is_empty());
    assert!(wiring.servers.remove(0).stop().success());
    wiring.servers.insert(0, serve(&wiring.homes[0]));
    assert_eq!(wiring.homes[0].read("pyzord.origin"), origin);
    wiring.expect_each_report_once();
}
