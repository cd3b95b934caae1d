//! Listening addresses and clients of both families.

use std::fs;
use std::net::IpAddr;

use super::ok;
use crate::harness::{DIGEST, Home, Server, ask_on, eventually};

/// Whether this machine has an IPv6 loopback address. The kernel may not support IPv6.
fn ipv6() -> bool {
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let any = addresses.lines().any(|line| line.starts_with("00000000000000000000000000000001"));
    if !any {
        println!("skipped: this machine has no IPv6 loopback address");
    }
    any
}

fn check_from(server: &Server, address: &str, seen_as: &str) {
    let socket = server.socket_to(address.parse::<IpAddr>().unwrap());
    let reply = ask_on(&socket, format!("Op: check\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n"));
    assert_eq!(String::from_utf8_lossy(&reply), ok("Count: 0\nWL-Count: 0\n"));
    let line = format!("INFO anonymous,{seen_as},check,['{DIGEST}'],200\n");
    eventually("a line in the usage log", || server.home().read("usage.log").contains(&line).then_some(()));
}

#[test]
fn ipv4_clients_are_served_on_any_address() {
    let server = Home::open().address("0.0.0.0").start();
    check_from(&server, "127.0.0.1", "127.0.0.1");
}

#[test]
fn ipv6_clients_are_served() {
    if ipv6() {
        check_from(&Home::open().address("::1").start(), "::1", "::1");
    }
}

#[test]
fn ipv4_and_ipv6_clients_are_served_by_one_socket() {
    if ipv6() {
        let server = Home::open().address("::").start();
        check_from(&server, "::1", "::1");
        check_from(&server, "127.0.0.1", "::ffff:127.0.0.1");
    }
}
