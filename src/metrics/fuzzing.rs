//! The fuzz target for requests of metrics: bytes on a connection, answered by hyper and the pages, as a server with
//! secrets in its state answers them.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Stream, exchange};
use super::{Observed, Transport};
use crate::control::reply::{Health, StatusReport};
use crate::forward::{ForwardState, ForwardStatus};
use crate::stats::{
    DropCause, ForwardCounts, Histogram, ServerStats, StatsReport, UpstreamCounts, UpstreamServerCounts,
};
use crate::storage::{Availability, EngineStatus, ExpiryStatus};
use crate::upstream::{UpstreamServerStatus, UpstreamState, UpstreamStatus};
use pyzor_wire::op::Op;

/// A text that must not be on any page. It stands for hosts, paths, accounts and reasons.
const SECRET: &str = "correct-horse-battery";
/// The server that reports are forwarded to.
const FORWARD_SERVER: &str = "a.example:24441";
/// The server that is asked for second opinions.
const UPSTREAM_SERVER: &str = "b.example:24441";
/// The number of polls after which a connection without further input must have ended.
const POLLS: usize = 1000;

/// A server with some counts and a secret in each text.
pub(super) struct Stub {
    pub(super) health: Health,
    pub(super) availability: Availability,
    /// Whether other servers are asked for second opinions.
    pub(super) has_upstream: bool,
}

impl Observed for Stub {
    fn status(&self) -> StatusReport {
        let secret = || SECRET.to_owned();
        let last_expiry = ExpiryStatus { seconds_ago: 40, removed: 4, visited: 400, error: Some(secret()) };
        StatusReport {
            health: self.health,
            problems: vec![secret()],
            version: "1.2.3".to_owned(),
            build: secret(),
            address: secret(),
            started: "2026-02-03T04:05:06Z".to_owned(),
            user: secret(),
            confinement: secret(),
            engine: "gdbm".to_owned(),
            database: secret(),
            storage: EngineStatus {
                availability: self.availability,
                reason: Some(secret()),
                records: Some(1_000_000),
                bytes: Some(1 << 40),
                synced_seconds_ago: Some(7),
                last_expiry: Some(last_expiry),
                next_expiry_in_seconds: Some(3600),
                problems: vec![secret()],
                ..EngineStatus::default()
            },
            accounts: 3,
            loaded: "2026-02-03T04:05:07Z".to_owned(),
            forwarding: vec![ForwardStatus {
                server: FORWARD_SERVER.to_owned(),
                user: secret(),
                address: Some(secret()),
                state: ForwardState::Unavailable,
                reason: Some(secret()),
                queued: 12,
                in_flight: 3,
                ..ForwardStatus::default()
            }],
            upstream: self.has_upstream.then(|| UpstreamStatus {
                servers: vec![UpstreamServerStatus {
                    server: UPSTREAM_SERVER.to_owned(),
                    user: secret(),
                    address: Some(secret()),
                    state: UpstreamState::OnTrial,
                    reason: Some(secret()),
                    in_flight: 1,
                    ..UpstreamServerStatus::default()
                }],
                cached: 1200,
                waiting: 6,
            }),
            ..StatusReport::default()
        }
    }

    fn stats(&self) -> StatsReport {
        let stats = ServerStats::default();
        stats.replied(Some(Op::Check), 200);
        stats.replied(None, 501);
        stats.check_hits.add(1);
        stats.drops.add(DropCause::Shed, 2);
        stats.latency.add(90, 1);
        stats.latency.add(u64::MAX / 2, 1);
        let mut counts = ForwardCounts { requests: 5, accepted: 30, ..ForwardCounts::default() };
        counts.refuse(401, 10);
        counts.refuse(999, 7);
        StatsReport {
            forwarding: [(FORWARD_SERVER.to_owned(), counts)].into(),
            upstream: self.has_upstream.then(upstream_counts),
            ..stats.report()
        }
    }
}

fn upstream_counts() -> UpstreamCounts {
    let mut counts =
        UpstreamServerCounts { sent: 20, answered: 9, silent: 8, unmatched: 5, ..Default::default() };
    [403, 403, 999].into_iter().for_each(|code| counts.refuse(code));
    let waited = Histogram::default();
    waited.add(300, 3);
    UpstreamCounts {
        cached_hits: 31,
        cached_misses: 32,
        asked: 20,
        joined: 33,
        declined: [("rate".to_owned(), 34)].into(),
        found: 4,
        not_found: 5,
        unanswered: 11,
        waited_micros: waited.report(),
        servers: [(UPSTREAM_SERVER.to_owned(), counts)].into(),
    }
}

/// Answers bytes that a peer sends before it closes its side, and returns what the peer receives.
pub(super) fn answer(bytes: &[u8], transport: Transport, observed: Stub) -> Vec<u8> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let peer = Peer { input: bytes.to_vec(), at: 0, sent: Arc::clone(&sent) };
    let mut connection = pin!(exchange(Stream::new(peer), transport, Arc::new(observed)));
    let mut context = Context::from_waker(Waker::noop());
    let has_ended = (0..POLLS).any(|_| connection.as_mut().poll(&mut context).is_ready());
    assert!(has_ended, "the connection is still open");
    sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sends any bytes, the first of which chooses the transport and the state of the server.
pub(crate) fn target(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let transport = if choice & 1 == 0 { Transport::Tcp } else { Transport::Unix };
    let health = if choice & 2 == 0 { Health::Well } else { Health::Critical };
    let availability = if choice & 4 == 0 { Availability::Available } else { Availability::ReadOnly };
    let has_upstream = choice & 8 == 0;
    let received = answer(bytes, transport, Stub { health, availability, has_upstream });
    if received.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(&received);
    assert!(!text.contains(SECRET), "{text}");
    let (code, body) = check_response(&text);
    // A body in the shape of a second response would be one.
    assert!(!body.contains("HTTP/1."), "{text}");
    if code == "200" {
        assert!(transport == Transport::Unix || names_this_host(bytes), "{}", bytes.escape_ascii());
        assert!(
            bytes.starts_with(b"GET ")
                || bytes.starts_with(b"HEAD ")
                || bytes.starts_with(b"\r\n")
                || bytes.starts_with(b"\n")
        );
        assert!(
            has_upstream || !body.contains("pyzord_upstream_") && !body.contains(UPSTREAM_SERVER),
            "{text}"
        );
        let is_health = text.contains("\r\n\r\nwell\n");
        assert!(!is_health || health == Health::Well);
    }
    if bytes.starts_with(b"HEAD ") {
        assert!(body.is_empty(), "{text}");
    }
}

/// Checks the form of a response, and returns its code and body.
fn check_response(text: &str) -> (&str, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no end of the fields: {text}"));
    let mut lines = head.split("\r\n");
    let status: Vec<_> = lines.next().unwrap_or_default().splitn(3, ' ').collect();
    assert!(matches!(status[0], "HTTP/1.0" | "HTTP/1.1"), "{text}");
    let codes = ["200", "400", "404", "405", "414", "421", "431", "503", "505"];
    assert!(codes.contains(&status[1]), "{text}");
    let fields: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
    let length = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if let Some((_, length)) = length
        && !body.is_empty()
    {
        assert_eq!(length.parse(), Ok(body.len()), "{text}");
    }
    (status[1], body)
}

/// Returns whether a field `Host` of the request is an address or `localhost`, or HTTP/1.0 leaves it out. A second
/// reader, which looks at lines only.
fn names_this_host(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.trim_start_matches(['\r', '\n']).lines();
    let request = lines.next().unwrap_or_default().to_owned();
    let hosts: Vec<_> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect();
    match hosts.as_slice() {
        [] => request.ends_with("HTTP/1.0"),
        [host] => {
            // Letters would be those of a name; in brackets, those of an IPv6 address.
            let name = host.strip_prefix("localhost").unwrap_or(host);
            let is_bracketed = name.starts_with('[');
            name.chars().all(|c| c.is_ascii_digit() || ".:".contains(c))
                || is_bracketed && name.chars().all(|c| c.is_ascii_hexdigit() || "[].:".contains(c))
        }
        _ => false,
    }
}

/// The other end of a connection, in memory.
struct Peer {
    input: Vec<u8>,
    at: usize,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.input.len().min(self.at + buffer.remaining());
        buffer.put_slice(&self.input[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
