//! Requests with forged senders on the local network of the server. The kernel queues the replies for neighbours that
//! do not exist.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{End, Forger, Home, Namespace, Reply, StopFlag};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The number of senders that do not exist.
const SOURCES: u32 = 300;
/// Forged requests per second. The kernel queues each reply for up to 3 s.
const RATE: u32 = 1500;
/// The number of requests of an honest client, and the interval between them.
const REQUESTS: u32 = 300;
const STEP: Duration = Duration::from_millis(20);

fn ping(thread: u32) -> String {
    format!("Op: ping\nThread: {thread}\nPV: 2.1\n\n")
}

/// Forges requests at the rate until stopped, and returns their number.
fn forge(forger: &Forger, port: u16, over: &StopFlag) -> u32 {
    let start = Instant::now();
    let mut sent = 0;
    while !over.is_set() {
        let due = (start.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        while sent < due {
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 128, 0)) + sent % SOURCES);
            let from = SocketAddrV4::new(source, 2000);
            forger.send(from, SocketAddrV4::new(SERVER, port), ping(4_000_000 + sent).as_bytes());
            sent += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    sent
}

/// Sends requests one after another, and returns the number of replies.
fn honest(host: &Namespace, from: &str, port: u16) -> usize {
    let socket = host.run(|| UdpSocket::bind((from, 0)).unwrap());
    socket.connect((SERVER, port)).unwrap();
    let mut answered = vec![false; REQUESTS as usize];
    let mut buffer = [0; 2000];
    let mut receive = |patience| {
        socket.set_read_timeout(Some(patience)).unwrap();
        let length = socket.recv(&mut buffer).ok()?;
        let thread = Reply(buffer[..length].to_vec()).number("Thread");
        answered[usize::try_from(thread).unwrap() - 2000] = true;
        Some(())
    };
    for number in 0..REQUESTS {
        socket.send(ping(2000 + number).as_bytes()).unwrap();
        let next = Instant::now() + STEP;
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            receive(left);
        }
    }
    while receive(Duration::from_secs(5)).is_some() {}
    answered.iter().filter(|answered| **answered).count()
}

/// Runs clients on the local network and behind a router while requests are forged. Then stops the server while forged
/// requests still arrive.
fn experiment(home: &Home) {
    let (here, there) = (Namespace::new(), Namespace::new());
    Namespace::join(
        &End { namespace: &here, interface: "inner", addresses: &["10.99.0.1/16"] },
        &End { namespace: &there, interface: "outer", addresses: &["10.99.0.9/16"] },
    );
    there.ip("address add 10.50.0.1/32 dev lo");
    here.ip("route add 10.50.0.0/16 via 10.99.0.9");
    let forger = there.run(Forger::new);
    let over = StopFlag::default();
    here.run(|| {
        let server = home.start();
        let port = server.port();
        let (forged, answered) = thread::scope(|scope| {
            let guard = over.set_on_drop();
            let forged = scope.spawn(|| forge(&forger, port, &over));
            // By now the queues of the kernel have reached their limit.
            thread::sleep(Duration::from_secs(3));
            let clients = ["10.99.0.9", "10.50.0.1"];
            let clients = clients.map(|from| scope.spawn(|| honest(&there, from, port)));
            let answered = clients.map(|client| client.join().unwrap());
            assert!(server.stop().success());
            drop(guard);
            (forged.join().unwrap(), answered)
        });
        println!("{forged} forged; answered on the link and behind a router: {answered:?} of {REQUESTS}");
        let lost = answered.map(|answered| REQUESTS as usize - answered);
        assert!(lost.iter().all(|lost| lost * 50 <= REQUESTS as usize), "{lost:?} of {REQUESTS} were lost");
    });
}

/// A send buffer smaller than the default, which every kernel grants.
const SETTINGS: &str = "SendBuffer = 212992\n";

#[test]
fn missing_neighbours_do_not_block_replies() {
    experiment(&Home::open().config(SETTINGS).address("0.0.0.0"));
}

#[test]
fn missing_neighbours_do_not_block_replies_of_an_unprivileged_server() {
    experiment(&Home::open().config(SETTINGS).address("::").unprivileged());
}

#[test]
fn missing_neighbours_do_not_block_replies_from_one_address() {
    experiment(&Home::open().config(SETTINGS).address("10.99.0.1"));
}
