//! Tests of second opinions with sockets.

mod disturbances;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::request_writer::Signer;

use super::{answer, digest, partial};
use crate::remotes::{DirectorySource, RemoteDirectory, RemoteServer};
use crate::stats::UpstreamServerCounts;
use crate::upstream::{
    QuestionSink, Upstream, UpstreamAnswer, UpstreamNews, UpstreamReceiver, UpstreamSettings, UpstreamState,
};

/// An address at which no test listens.
const ELSEWHERE: &str = "192.0.2.1:1";
const LONG: Duration = Duration::from_secs(60);

/// A service and its answers.
struct Bench {
    upstream: Arc<Upstream>,
    news: UpstreamReceiver,
    /// How often the servers have changed.
    changes: u32,
}

impl Bench {
    fn new(addresses: &[SocketAddr], timeout: Duration) -> Self {
        Self::at(ELSEWHERE, addresses, timeout)
    }

    fn at(listening: &str, addresses: &[SocketAddr], timeout: Duration) -> Self {
        let settings = UpstreamSettings {
            source: DirectorySource::default(),
            timeout,
            cache: 0,
            found_age: LONG,
            miss_age: LONG,
            rate: 100,
        };
        let listening = listening.parse().unwrap();
        let (upstream, news) = Upstream::start(&settings, directory(addresses), listening).unwrap();
        Self { upstream, news, changes: 0 }
    }

    fn ask(&self, numbers: &[u8]) {
        let mut digests = numbers.iter().map(|number| digest(*number)).collect();
        self.upstream.ask(&mut digests);
        assert_eq!(digests, []);
    }

    /// Waits for this many answers, in the order of their digests.
    fn answers(&mut self, number: usize) -> Vec<UpstreamAnswer> {
        let mut answers = Vec::new();
        while answers.len() < number {
            match self.news.blocking_recv().unwrap() {
                UpstreamNews::Answers(more) => answers.extend(more),
                UpstreamNews::ServersChanged => self.changes += 1,
            }
        }
        answers.sort_by_key(|answer| *answer.digest.as_bytes());
        answers
    }

    fn state(&self, index: usize) -> UpstreamState {
        self.upstream.status()[index].state
    }

    fn counts(&self, address: SocketAddr) -> UpstreamServerCounts {
        self.upstream.counts()[&address.to_string()].clone()
    }
}

fn directory(addresses: &[SocketAddr]) -> RemoteDirectory {
    let server = |address: &SocketAddr| RemoteServer {
        host: address.ip().to_string(),
        port: address.port(),
        signer: Signer::anonymous(),
    };
    RemoteDirectory { servers: addresses.iter().map(server).collect(), timeout: LONG }
}

fn remote() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Receives a request. Returns its operation, its thread and its source.
fn receive(socket: &UdpSocket) -> (String, u16, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    assert_eq!(text.contains("Local-Only: yes\n"), text.starts_with("Op: check\n"), "{text}");
    (field("Op: ").to_owned(), field("Thread: ").parse().unwrap(), from)
}

fn reply(thread: u16, reports: i64, whitelists: i64) -> Vec<u8> {
    let counts = format!("Count: {reports}\nWL-Count: {whitelists}\n");
    format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: {thread}\n{counts}\n").into_bytes()
}

#[track_caller]
fn eventually(what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < LONG, "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn answer_has_the_largest_counts_of_all_servers() {
    let ((first, first_address), (second, second_address)) = (remote(), remote());
    let mut bench = Bench::new(&[first_address, second_address], LONG);
    assert!(bench.upstream.is_available());
    bench.ask(&[1]);
    for (socket, reports, whitelists) in [(&first, 7, -3), (&second, 2, 5)] {
        let (op, thread, from) = receive(socket);
        assert_eq!(op, "check");
        socket.send_to(&reply(thread, reports, whitelists), from).unwrap();
    }
    assert_eq!(bench.answers(1), [answer(1, Some((7, 5)))]);
    assert_eq!([bench.state(0), bench.state(1)], [UpstreamState::Available; 2]);
    bench.upstream.stop();
}

#[test]
fn silent_server_costs_no_more_than_the_timeout_and_not_the_answers_of_others() {
    let ((first, first_address), (_second, second_address)) = (remote(), remote());
    let mut bench = Bench::new(&[first_address, second_address], Duration::from_secs(1));
    bench.ask(&[1, 2]);
    for _ in 0..2 {
        let (_, thread, from) = receive(&first);
        first.send_to(&reply(thread, 4, 0), from).unwrap();
    }
    assert_eq!(bench.answers(2), [partial(1, Some((4, 0))), partial(2, Some((4, 0)))]);
    assert_eq!((bench.counts(first_address).answered, bench.counts(second_address).silent), (2, 2));
}

#[test]
fn only_the_thread_of_the_question_from_the_socket_of_the_server_counts() {
    let ((server, address), (stranger, _)) = (remote(), remote());
    let mut bench = Bench::new(&[address], LONG);
    bench.ask(&[1]);
    let (_, thread, from) = receive(&server);
    stranger.send_to(&reply(thread, 666, 0), from).unwrap();
    server.send_to(&reply(thread ^ 1, 667, 0), from).unwrap();
    server.send_to(&reply(thread, 1, 0), from).unwrap();
    server.send_to(&reply(thread, 668, 0), from).unwrap();
    assert_eq!(bench.answers(1), [answer(1, Some((1, 0)))]);
    eventually(|| bench.counts(address).unmatched == 2);
}

#[test]
fn questions_come_from_several_ports_with_different_threads() {
    let (server, address) = remote();
    let bench = Bench::new(&[address], LONG);
    bench.ask(&(0..40).collect::<Vec<u8>>());
    let mut seen: Vec<(SocketAddr, u16)> = (0..40)
        .map(|_| {
            let (_, thread, from) = receive(&server);
            (from, thread)
        })
        .collect();
    assert!(seen.iter().all(|(_, thread)| *thread >= 1024));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 40);
    seen.dedup_by_key(|(from, _)| *from);
    assert!((3..=4).contains(&seen.len()), "{seen:?}");
}

#[test]
fn this_server_itself_is_not_asked() {
    let ((own, own_address), (other, other_address)) = (remote(), remote());
    let listening = format!("0.0.0.0:{}", own_address.port());
    let mut bench = Bench::at(&listening, &[own_address, other_address], LONG);
    assert_eq!(bench.state(0), UpstreamState::Unavailable);
    let reason = bench.upstream.status()[0].reason.clone();
    assert_eq!(reason.as_deref(), Some("its address is that of this server itself"));
    bench.ask(&[1]);
    let (_, thread, from) = receive(&other);
    other.send_to(&reply(thread, 1, 1), from).unwrap();
    assert_eq!(bench.answers(1), [answer(1, Some((1, 1)))]);
    bench.upstream.stop();
    own.set_nonblocking(true).unwrap();
    assert!(own.recv_from(&mut [0; 2048]).is_err());
}

#[test]
fn removed_servers_are_not_waited_for_and_others_keep_their_state() {
    let ((first, first_address), (_second, second_address)) = (remote(), remote());
    let mut bench = Bench::new(&[first_address, second_address], LONG);
    bench.ask(&[1]);
    let (_, thread, from) = receive(&first);
    first.send_to(&reply(thread, 3, 0), from).unwrap();
    eventually(|| bench.state(0) == UpstreamState::Available);
    assert_eq!(
        bench.upstream.replace(directory(&[first_address])),
        [format!("Second opinions from {second_address} (anonymous) end")]
    );
    assert_eq!(bench.answers(1), [partial(1, Some((3, 0)))]);
    assert_eq!((bench.state(0), bench.changes), (UpstreamState::Available, 1));
    assert!(bench.upstream.replace(directory(&[first_address])).is_empty());
    assert_eq!(bench.upstream.replace(directory(&[second_address, first_address])).len(), 1);
    eventually(|| bench.upstream.status()[0].address.is_some());
    assert_eq!([bench.state(0), bench.state(1)], [UpstreamState::Untried, UpstreamState::Available]);
    bench.upstream.stop();
    bench.ask(&[2]);
    assert_eq!((bench.answers(1), bench.changes), (vec![answer(2, None)], 2));
}

#[test]
fn every_question_has_an_answer_after_a_stop() {
    let (_server, address) = remote();
    let mut bench = Bench::new(&[address], LONG);
    bench.ask(&[1, 2]);
    bench.upstream.stop();
    bench.ask(&[3]);
    assert_eq!(bench.answers(3), [answer(1, None), answer(2, None), answer(3, None)]);
    assert!(!bench.upstream.is_available());
    bench.upstream.stop();
}
