//! Tests of the forwarder with sockets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::ForwardOrigin;
use pyzor_wire::request_writer::Signer;

use super::{ForwardBuffer, ForwardSettings, ForwardSink, ForwardState, Forwarder};
use crate::remotes::{DirectorySource, RemoteDirectory, RemoteServer};
use crate::stats::ForwardCounts;

/// An address at which no test listens.
const ELSEWHERE: &str = "192.0.2.1:1";

fn directory(addresses: &[SocketAddr]) -> RemoteDirectory {
    let server = |address: &SocketAddr| RemoteServer {
        host: address.ip().to_string(),
        port: address.port(),
        signer: Signer::anonymous(),
    };
    RemoteDirectory { servers: addresses.iter().map(server).collect(), timeout: Duration::from_secs(60) }
}

/// Starts a forwarder that fills requests for an hour.
fn forwarder(addresses: &[SocketAddr], listening: &str) -> Arc<Forwarder> {
    let settings = ForwardSettings {
        source: DirectorySource::default(),
        reports: true,
        whitelists: true,
        delay: Duration::from_secs(3600),
        retries: 0,
        queue: 100,
        rate: 100,
        origin: None,
    };
    let origin = ForwardOrigin::from_number(1);
    Forwarder::start(settings, directory(addresses), origin, listening.parse().unwrap()).unwrap()
}

/// Hands reports over.
fn report(forwarder: &Forwarder, digests: u8) {
    let reports = (0..digests).map(|byte| Digest::from_bytes([byte; 20])).collect();
    forwarder.hand_over(&mut ForwardBuffer { reports, ..ForwardBuffer::default() });
}

fn remote() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Receives a request, and replies. Returns the number of its digests.
fn answer(socket: &UdpSocket, code: u16) -> usize {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    let thread = text.lines().find(|line| line.starts_with("Thread: ")).unwrap();
    socket.send_to(format!("Code: {code}\nDiag: x\nPV: 2.1\n{thread}\n\n").as_bytes(), from).unwrap();
    text.matches("Op-Digest: ").count()
}

#[track_caller]
fn eventually(what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stop(forwarder: &Forwarder, wait: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(forwarder.stop(Instant::now() + wait));
}

fn counts(forwarder: &Forwarder, address: SocketAddr) -> ForwardCounts {
    forwarder.counts()[&address.to_string()].clone()
}

#[test]
fn full_requests_leave_at_once_and_the_rest_at_the_stop() {
    let (socket, address) = remote();
    let forwarder = forwarder(&[address], ELSEWHERE);
    report(&forwarder, 25);
    assert_eq!([answer(&socket, 200), answer(&socket, 403)], [10, 10]);
    eventually(|| counts(&forwarder, address).refused.get(&403) == Some(&10));
    assert_eq!(forwarder.status()[0].state, ForwardState::Available);
    let last = std::thread::spawn(move || answer(&socket, 200));
    stop(&forwarder, Duration::from_secs(60));
    assert_eq!((last.join().unwrap(), counts(&forwarder, address).accepted), (5, 15));
    report(&forwarder, 10);
    assert_eq!(counts(&forwarder, address).dropped, 10);
}

#[test]
fn closed_port_makes_a_server_unavailable_without_effect_on_others() {
    let (socket, address) = remote();
    let (closed, closed_address) = remote();
    drop(closed);
    let forwarder = forwarder(&[closed_address, address], ELSEWHERE);
    report(&forwarder, 10);
    assert_eq!(answer(&socket, 200), 10);
    eventually(|| forwarder.status()[0].state == ForwardState::Unavailable);
    report(&forwarder, 10);
    assert_eq!(answer(&socket, 200), 10);
    let reopened = UdpSocket::bind(closed_address).unwrap();
    reopened.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!([answer(&reopened, 403), answer(&reopened, 200)], [0, 10]);
    eventually(|| counts(&forwarder, closed_address).accepted == 10);
    stop(&forwarder, Duration::ZERO);
}

#[test]
fn this_server_itself_is_left_out() {
    let (socket, address) = remote();
    let forwarder = forwarder(&[address], &format!("0.0.0.0:{}", address.port()));
    eventually(|| forwarder.status()[0].state == ForwardState::Unavailable);
    let reason = forwarder.status()[0].reason.clone();
    assert_eq!(reason.as_deref(), Some("its address is that of this server itself"));
    report(&forwarder, 10);
    stop(&forwarder, Duration::from_secs(60));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv_from(&mut [0; 2048]).is_err());
    assert_eq!((counts(&forwarder, address).dropped, forwarder.status()[0].queued), (0, 0));
}

#[test]
fn removed_servers_get_what_waits_and_others_keep_their_queues() {
    let ((first, first_address), (second, second_address)) = (remote(), remote());
    let forwarder = forwarder(&[first_address], ELSEWHERE);
    report(&forwarder, 5);
    let lines = forwarder.replace(directory(&[second_address]));
    assert_eq!(
        lines,
        [
            format!("Forwarding to {second_address} (anonymous) begins"),
            format!("Forwarding to {first_address} (anonymous) ends")
        ]
    );
    assert!(forwarder.replace(directory(&[second_address])).is_empty());
    assert_eq!(answer(&first, 200), 5);
    report(&forwarder, 10);
    assert_eq!(answer(&second, 200), 10);
    eventually(|| counts(&forwarder, second_address).accepted == 10);
    stop(&forwarder, Duration::from_secs(60));
}

#[test]
fn removed_server_that_is_unavailable_gets_its_queue_and_is_the_same_one_if_added_again() {
    let ((other, other_address), (closed, address)) = (remote(), remote());
    drop(closed);
    let forwarder = forwarder(&[address], ELSEWHERE);
    report(&forwarder, 10);
    eventually(|| forwarder.status()[0].state == ForwardState::Unavailable);
    report(&forwarder, 20);
    assert_eq!(forwarder.replace(directory(&[other_address])).len(), 2);
    report(&forwarder, 10);
    assert_eq!(answer(&other, 200), 10);
    let lines = forwarder.replace(directory(&[address]));
    assert_eq!(
        lines,
        [
            format!("Forwarding to {address} (anonymous) begins again, with 20 digests that are queued"),
            format!("Forwarding to {other_address} (anonymous) ends"),
        ]
    );
    assert_eq!((forwarder.status()[0].queued, counts(&forwarder, address).requests), (20, 1));
    forwarder.replace(directory(&[other_address]));
    let reopened = UdpSocket::bind(address).unwrap();
    reopened.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!([0; 3].map(|_| answer(&reopened, 200)), [0, 10, 10]);
    stop(&forwarder, Duration::ZERO);
}
