//! Several servers and callers that use one table concurrently.

mod ours;

use std::fmt::Write as _;
use std::thread;

use super::{COLUMNS, MySql};
use crate::engines::{Store, digests, done};
use crate::harness::{Home, Server, interop};

/// The most digests that fit into a datagram of 8192 bytes.
const FULL: u32 = 150;

/// Sends the requests of one caller: all digests `rounds` times, each time in another order, alternately as reports and
/// as whitelistings.
fn call(server: &Server, digests: &[String], rounds: usize, caller: usize) {
    for round in 0..rounds {
        let mut order: Vec<&str> = digests.iter().map(String::as_str).collect();
        order.rotate_left((round * 7 + caller * 5) % digests.len());
        if (round + caller) % 2 == 1 {
            order.reverse();
        }
        let operation = if round % 2 == 0 { "report" } else { "whitelist" };
        let reply = server.request(operation, &order);
        assert_eq!(reply.code(), 200, "{operation}: {}", reply.0.escape_ascii());
    }
}

/// Reports and whitelists the same digests by callers of all these servers, and checks the counts.
fn assert_everything_is_counted(store: &MySql, servers: &[&Server], callers: usize, rounds: usize) {
    let digests = digests(30);
    thread::scope(|scope| {
        for server in servers {
            for caller in 0..callers {
                let digests = &digests;
                scope.spawn(move || call(server, digests, rounds, caller));
            }
        }
    });
    let expected = servers.len() * callers * rounds / 2;
    let mut rows = String::new();
    for digest in &digests {
        let _ = writeln!(rows, "{digest}\t{expected}\t{expected}");
    }
    assert_eq!(store.sql("SELECT digest, r_count, wl_count FROM digests ORDER BY digest"), rows);
    for server in servers {
        let expected = i64::try_from(expected).unwrap();
        assert_eq!(done(server, "check", &digests[29]).counts(), (expected, expected));
    }
}

#[test]
fn two_servers_count_the_same_digests_at_once() {
    for shape in ["", "ENGINE=MyISAM"] {
        let store = MySql::bare().shaped(&format!("({COLUMNS}) {shape}"));
        let homes: [Home; 2] = std::array::from_fn(|_| store.home("DBConnections = 8\n"));
        let servers = homes.each_ref().map(Home::start);
        assert_everything_is_counted(&store, &servers.each_ref(), 4, 20);
    }
}

#[test]
fn python_server_counts_in_the_same_table() {
    let store = MySql::new();
    let ours = store.home("").start();
    let established = store.home("").program(interop("pyzord")).start();
    assert_everything_is_counted(&store, &[&ours, &established], 3, 20);
}

#[test]
fn one_connection_is_enough_for_many_callers() {
    let (store, _, server) = MySql::served("DBConnections = 1\n");
    assert_everything_is_counted(&store, &[&server], 8, 10);
}

#[test]
fn full_datagram_of_digests_is_counted() {
    let (store, _, server) = MySql::served("");
    let digests = digests(FULL);
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    for operation in ["report", "whitelist", "report"] {
        assert_eq!(server.request(operation, &digests).code(), 200);
    }
    let counted = "SELECT COUNT(*) FROM digests WHERE r_count = 2 AND wl_count = 1";
    assert_eq!(store.sql(counted), format!("{FULL}\n"));
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), format!("{FULL}\n"));
}
