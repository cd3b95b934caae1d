//! Denied networks and rate limits, as seen by clients.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use crate::harness::{Account, DIGEST, Home, Reply, Server, ask_on, eventually, unix_time};
use crate::ours::operator_sockets::ask;

const PING: &str = "Op: ping\nThread: 3000\nPV: 2.1\n\n";

/// A homedir that grants everything to every user, with this listening address and these settings.
fn home(address: &'static str, settings: &str) -> Home {
    let access = "all : anonymous : allow\nall : bob : allow\n";
    let bob = Account::new("bob");
    Home::new().passwd(bob.passwd()).access(access).config(settings).address(address)
}

/// A sender at this address.
fn sender(server: &Server, address: &str) -> UdpSocket {
    let to = if address.contains(':') { "::1" } else { "127.0.0.1" };
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.connect((to, server.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// Sends `count` datagrams in a row and returns the number of replies. Further requests from an exempt address, which
/// are always answered, show that the replies are complete.
fn replies(server: &Server, socket: &UdpSocket, datagram: &[u8], count: usize) -> usize {
    for _ in 0..count {
        socket.send(datagram).unwrap();
    }
    // The server receives datagrams in order, but sends the replies of a batch in any order. The reply to a request
    // after that batch shows that all have been sent.
    for _ in 0..2 {
        assert_eq!(server.request("ping", &[]).code(), 200);
    }
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 1000];
    let mut received = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => received += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    socket.set_nonblocking(false).unwrap();
    received
}

fn report(thread: usize) -> Vec<u8> {
    format!("Op: report\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n\n").into_bytes()
}

#[test]
fn denied_networks_and_networks_not_allowed_get_no_reply() {
    for address in ["0.0.0.0", "::"] {
        let settings = "AllowNetworks = 127.0.0.0/16, ::1\nDenyNetworks = 127.0.2.0/24 ::ffff:127.0.3.3\n";
        let server = home(address, settings).start();
        let is_accepted = |from: &str| replies(&server, &sender(&server, from), PING.as_bytes(), 3) == 3;
        assert!(is_accepted("127.0.1.1") && is_accepted("127.0.3.4"), "{address}");
        assert!(!is_accepted("127.0.2.1") && !is_accepted("127.0.3.3"), "{address}");
        assert!(!is_accepted("127.1.0.1"), "{address}");
        let home = server.home().clone();
        assert!(server.stop().success());
        assert!(home.log().contains(" 9 datagrams from networks that are not allowed"), "{}", home.log());
        assert!(!home.log().contains("127.0.2.1"), "one line per datagram");
    }
    // IPv6 networks do not match IPv4 clients, even if the server listens on an IPv6 address.
    for settings in ["AllowNetworks = ::/0\n", "DenyNetworks = 0.0.0.0/0\n"] {
        let server = home("::", settings).start();
        assert_eq!(replies(&server, &sender(&server, "::1"), PING.as_bytes(), 3), 3);
        assert_eq!(replies(&server, &sender(&server, "127.0.0.1"), PING.as_bytes(), 3), 0);
    }
}

/// Sends three pings from an IPv4 address and returns the number of replies.
fn replies_of_v4(server: &Server, address: &str) -> usize {
    let socket = sender(server, address);
    (0..3).filter(|_| Reply(ask_on(&socket, PING)).code() == 200).count()
}

#[test]
fn prefix_beyond_its_rate_gets_no_reply_and_others_do() {
    for (listen, first, adjacent, other) in
        [("0.0.0.0", "127.0.1.1", "127.0.1.77", "127.0.2.1"), ("::", "127.0.1.1", "127.0.1.77", "127.0.2.1")]
    {
        let settings = "RateLimit = 1\nRateLimitBurst = 20\nRateLimitExempt = 127.0.0.0/24 ::1\n";
        let server = home(listen, settings).start();
        let start = Instant::now();
        let (first, adjacent) = (sender(&server, first), sender(&server, adjacent));
        let count = replies(&server, &first, PING.as_bytes(), 50);
        let count = count + replies(&server, &adjacent, PING.as_bytes(), 50);
        // Tokens added in the meantime.
        let added = start.elapsed().as_secs() as usize + 1;
        assert!((20..=20 + added).contains(&count), "{count} after {added}");
        assert_eq!(replies(&server, &sender(&server, other), PING.as_bytes(), 20), 20);
        let exempt = sender(&server, if listen == "::" { "::1" } else { "127.0.0.2" });
        assert_eq!(replies(&server, &exempt, PING.as_bytes(), 100), 100);
        let home = server.home().clone();
        assert!(server.stop().success());
        let log = home.log();
        let line = " WARNING RateLimit: 127.0.1.0/24 exceeds 1 per second: the excess is dropped";
        assert_eq!(log.matches(line).count(), 1, "{log}");
        let dropped = 100 - count;
        assert!(log.contains(&format!(" {dropped} dropped beyond RateLimit\n")), "{log}");
        let most = format!(
            "Highest of {dropped} beyond a rate limit since the last report: 127.0.1.0/24 (at least {dropped})\n"
        );
        assert!(log.contains(&most), "{log}");
    }
}

#[test]
fn addresses_of_an_ipv6_prefix_share_one_limit() {
    let server = home("::", "RateLimit = 1\nRateLimitBurst = 60\nRateLimitExempt = 127.0.0.1\n").start();
    let start = Instant::now();
    let socket = sender(&server, "::1");
    for _ in 0..100 {
        socket.send(PING.as_bytes()).unwrap();
    }
    assert_eq!(replies_of_v4(&server, "127.0.0.1"), 3);
    socket.set_nonblocking(true).unwrap();
    let count = std::iter::from_fn(|| socket.recv(&mut [0; 1000]).ok()).count();
    let added = start.elapsed().as_secs() as usize + 1;
    // The harness has used some tokens to check that the server is ready.
    assert!((40..=60 + added).contains(&count), "{count} after {added}");
}

/// Listening addresses and clients: IPv4, IPv4 received by an IPv6 socket, and IPv6.
const LISTENERS: [(&str, &str); 3] = [("0.0.0.0", "127.0.1.1"), ("::", "127.0.1.1"), ("::", "::1")];

#[test]
fn refusals_are_limited_and_valid_requests_are_answered() {
    for (listen, from) in LISTENERS {
        let server = home(listen, "RateLimitErrors = 1\nRateLimitBurst = 5\n").start();
        let start = Instant::now();
        let socket = sender(&server, from);
        let count = replies(&server, &socket, b"Op: ping\n", 40);
        let added = start.elapsed().as_secs() as usize + 1;
        assert!((5..=5 + added).contains(&count), "{count} after {added}: {listen} {from}");
        assert_eq!(replies(&server, &socket, PING.as_bytes(), 40), 40, "{listen} {from}");
        assert_eq!(replies(&server, &socket, &report(3000), 40), 40, "{listen} {from}");
        // Another IPv4 prefix has its own limit, even if the server listens on `::`.
        assert_eq!(replies(&server, &sender(&server, "127.0.2.1"), b"Op: ping\n", 5), 5, "{listen} {from}");
    }
}

#[test]
fn anonymous_writes_are_limited_and_dropped_ones_are_not_counted() {
    for (listen, from) in LISTENERS {
        let server = home(listen, "RateLimitWrites = 1\nRateLimitBurst = 5\n").start();
        let start = Instant::now();
        let socket = sender(&server, from);
        let count = replies(&server, &socket, &report(3000), 40);
        let added = start.elapsed().as_secs() as usize + 1;
        assert!((5..=5 + added).contains(&count), "{count} after {added}: {listen} {from}");
        let counts = server.request("check", &[DIGEST]).counts();
        assert_eq!(counts, (i64::try_from(count).unwrap(), 0), "{listen} {from}");
        // Look-ups and signed requests are not limited.
        assert_eq!(replies(&server, &socket, PING.as_bytes(), 40), 40, "{listen} {from}");
        let headers = format!("Op: report\nOp-Digest: {DIGEST}\nThread: 3000\nPV: 2.1\n");
        let signed = Account::new("bob").sign(&headers, unix_time());
        assert_eq!(replies(&server, &socket, &signed, 40), 40, "{listen} {from}");
    }
}

#[test]
fn each_exceeded_limit_of_a_prefix_is_named() {
    let settings = "RateLimit = 60\nRateLimitErrors = 1\nRateLimitWrites = 1\nRateLimitBurst = 1\n\
                    RateLimitExempt = 127.0.0.0/24\n";
    let server = home("0.0.0.0", settings).start();
    let socket = sender(&server, "127.0.1.1");
    let home = server.home().clone();
    let line = |limit: &str| format!(" WARNING {limit}: 127.0.1.0/24 exceeds ");
    // The limit on all requests last: beyond it no other applies.
    let limits = [("RateLimitErrors", b"Op: ping\n".to_vec(), 10), ("RateLimitWrites", report(3000), 10)];
    for (limit, datagram, count) in limits.into_iter().chain([("RateLimit", PING.into(), 200)]) {
        eventually("a line about the limit", || {
            replies(&server, &socket, &datagram, count);
            home.log().contains(&line(limit)).then_some(())
        });
    }
    assert!(server.stop().success());
    let log = home.log();
    for limit in ["RateLimitErrors", "RateLimitWrites", "RateLimit"] {
        assert_eq!(log.matches(&line(limit)).count(), 1, "{limit}: {log}");
    }
}

#[test]
fn each_limit_counts_what_it_drops() {
    let limits = [
        ("RateLimit", "rate_limit", PING.into()),
        ("RateLimitErrors", "rate_limit_errors", b"Op: ping\n".to_vec()),
        ("RateLimitWrites", "rate_limit_writes", report(3000)),
    ];
    for (option, cause, datagram) in &limits {
        let settings = format!("{option} = 1\nRateLimitBurst = 5\nRateLimitExempt = 127.0.0.0/24\n");
        let server = home("0.0.0.0", &settings).start();
        let sent = [("127.0.1.1", 40), ("127.0.2.1", 60), ("127.0.3.1", 4)];
        let dropped =
            sent.map(|(from, count)| count - replies(&server, &sender(&server, from), datagram, count));
        let total: usize = dropped.iter().sum();
        let home = server.home().clone();
        let stats = eventually("the counters of limits", || {
            let stats = ask(&home.path("pyzord.sock"), "stats")["stats"].clone();
            (stats["exceeded"][option] == total).then_some(stats)
        });
        for (other, other_cause, _) in &limits {
            let expected = if option == other { total } else { 0 };
            assert_eq!(stats["exceeded"][other], expected, "{option}");
            assert_eq!(stats["drops"][other_cause], expected, "{option}");
        }
        assert_eq!(stats["drops"][cause], total);
        assert!(server.stop().success());
        let line = format!(
            "Highest of {total} beyond a rate limit since the last report: 127.0.2.0/24 (at least {}), 127.0.1.0/24 (at \
             least {})\n",
            dropped[1], dropped[0]
        );
        assert!(dropped[2] == 0 && home.log().contains(&line), "{line}: {}", home.log());
        assert!(
            home.log().contains(&format!("Not answered since the last report: {total} ")),
            "{}",
            home.log()
        );
    }
}

#[test]
fn log_only_limit_drops_nothing() {
    let settings = "RateLimit = 1\nRateLimitWrites = 1\nRateLimitBurst = 1\nRateLimitLogOnly = true\n";
    let server = home("0.0.0.0", settings).start();
    let socket = sender(&server, "127.0.1.1");
    assert_eq!(replies(&server, &socket, PING.as_bytes(), 50), 50);
    let home = server.home().clone();
    // The counters of limits are brought up to date once a second.
    let stats = eventually("the counters of limits", || {
        let stats = ask(&home.path("pyzord.sock"), "stats")["stats"].clone();
        (stats["exceeded"]["RateLimit"] != 0).then_some(stats)
    });
    assert_eq!(stats["drops"]["rate_limit"], 0);
    assert!(server.stop().success());
    let log = home.log();
    assert!(log.contains("127.0.1.0/24 exceeds 1 per second: the excess would be dropped"), "{log}");
    assert!(log.contains(" would have been dropped beyond a rate limit since the last report; highest: 127.0.1.0/24 (at least "), "{log}");
}

#[test]
fn bad_networks_are_reported_with_their_line_and_extra_bits_are_warned_of() {
    let home = home("127.0.0.1", "AllowNetworks = 127.0.0.0/8, 10.0.0.0/33\nDenyNetworks = example.org\n");
    assert!(home.try_start().is_err());
    let stderr = home.stderr();
    for line in [
        "config:4: AllowNetworks: '10.0.0.0/33' is not a network",
        "config:5: DenyNetworks: 'example.org' is no",
    ] {
        assert!(stderr.contains(line), "{stderr}");
    }
    let home = self::home("127.0.0.1", "DenyNetworks = 192.0.2.7/24\n");
    drop(home.start());
    assert!(
        home.stderr()
            .contains("DenyNetworks: 192.0.2.7/24 is not the start of a network: using 192.0.2.0/24"),
        "{}",
        home.stderr()
    );
}

/// Sends one datagram from each of a range of addresses, which starts at 127.1.0.0.
fn spoof(socket: &UdpSocket, server: &Server, numbers: std::ops::Range<u32>) {
    use std::os::fd::AsRawFd;
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port()));
    let data = [std::io::IoSlice::new(PING.as_bytes())];
    for number in numbers {
        let address = Ipv4Addr::from_bits(0x7f01_0000 + number);
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: address.to_bits().to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let sent = sendmsg(
            socket.as_raw_fd(),
            &data,
            &[ControlMessage::Ipv4PacketInfo(&source)],
            MsgFlags::empty(),
            Some(&to),
        );
        sent.unwrap();
        if number % 256 == 0 {
            // Waits for the server, so that it receives all of them.
            assert_eq!(server.request("ping", &[]).code(), 200);
        }
    }
}

fn resident_kib(server: &Server) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn million_forged_prefixes_take_no_memory_and_do_not_affect_other_clients() {
    let settings = "RateLimit = 10\nRateLimitPrefixV4 = 32\nRateLimitExempt = 127.0.0.1\n";
    let server = home("0.0.0.0", settings).start();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let other_client = sender(&server, "127.0.9.9");
    // More prefixes than the table holds, so that all of its memory is in use.
    spoof(&socket, &server, 0..200_000);
    let before = resident_kib(&server);
    for round in 2..10 {
        spoof(&socket, &server, round * 100_000..(round + 1) * 100_000);
        assert_eq!(Reply(ask_on(&other_client, PING)).code(), 200);
    }
    let grown = resident_kib(&server) - before;
    // A growing table would take 38 MiB. The log buffers vary with the load.
    assert!(grown < 4096, "{grown} KiB more");
}
