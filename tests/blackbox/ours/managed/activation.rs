//! Servers on a socket that the service manager passes.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::harness::{Caller, Home, PATIENCE, Server, ask_on, digest, finish};

/// Returns a server's command with this socket as descriptor 3, as the service manager passes it.
fn passing(home: &Home, socket: impl Into<OwnedFd>, detached: bool) -> Command {
    passing_with(home, socket, detached, "LISTEN_PID=$$ LISTEN_FDS=1")
}

fn passing_with(home: &Home, socket: impl Into<OwnedFd>, detached: bool, variables: &str) -> Command {
    let script = format!("export {variables}; exec \"$@\" 3<&0 4<&0 0</dev/null");
    let mut command = home.under(&script, detached);
    command.stdin(socket.into());
    command
}

fn socket() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Expects that a server answers on a passed socket, and warns of the port that has no effect.
#[track_caller]
pub(super) fn serve(home: &Home) {
    let (socket, port) = socket();
    let mut server = Server::start(home, passing(home, socket.try_clone().unwrap(), false));
    let mut caller = Caller::to(port);
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[&digest(1)]).code(), 200);
    assert_eq!(server.stop().code(), Some(0));
    let log = home.log();
    for text in [
        format!("The service manager passed the socket 127.0.0.1:{port}."),
        format!("Listening on 127.0.0.1:{port} (UDP)"),
        format!("Port = {} has no effect: ", home.port()),
    ] {
        assert!(log.contains(&text), "{text}: {log}");
    }
    assert!(!log.contains("ListenAddress"), "{log}");
}

/// Expects that a server in the background answers on a passed socket.
#[track_caller]
pub(super) fn serve_detached(home: &Home) {
    let (socket, port) = socket();
    let finished = finish(passing(home, socket, true));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(Caller::to(port).answered("report", &[&digest(1)]).code(), 200);
    home.daemon().stop();
}

#[test]
fn passed_socket_is_served_instead_of_the_configured_port() {
    serve(&Home::open());
    serve(&Home::open().config("Confine = False\n"));
}

#[test]
fn detached_server_keeps_the_passed_socket() {
    serve_detached(&Home::open());
}

#[test]
fn requests_that_arrive_during_restarts_are_answered() {
    /// The requests under way at a time: the queue of the socket holds them.
    const WINDOW: u32 = 64;
    for reuses in [false, true] {
        let home = Home::open();
        let (socket, port) = socket();
        // A server that leaves a shared port must not do so here: no server would receive anything from then on.
        setsockopt(&socket, sockopt::ReusePort, &reuses).unwrap();
        let start = || Server::start(&home, passing(&home, socket.try_clone().unwrap(), false));
        let is_over = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let caller = Caller::to(port);
                let (mut sent, mut answered) = (0, 0);
                loop {
                    let is_last = is_over.load(Ordering::Relaxed);
                    while sent - answered < WINDOW && !is_last {
                        sent += 1;
                        caller.send("report", &[&digest(1)], sent + 1024);
                    }
                    if is_last && sent == answered {
                        return sent;
                    }
                    let reply =
                        caller.receive(PATIENCE).unwrap_or_else(|| panic!("{answered} of {sent} answered"));
                    assert_eq!(reply.code(), 200);
                    answered += 1;
                }
            }
        });
        for _ in 0..5 {
            let mut server = start();
            server.serves(&mut Caller::to(port));
            server.signal(Signal::SIGTERM);
            assert_eq!(server.ended().code(), Some(0));
        }
        let mut server = start();
        is_over.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        let mut caller = Caller::to(port);
        server.serves(&mut caller);
        assert_eq!(caller.count(&digest(1)), i64::from(sent), "each is counted once");
        assert_eq!(server.stop().code(), Some(0));
        let stored = home.stored();
        assert_eq!(stored[&digest(1)], i64::from(sent));
    }
}

#[test]
fn wildcard_sockets_answer_from_the_address_that_was_asked() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let home = Home::open();
        let socket = UdpSocket::bind(any).unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut server = Server::start(&home, passing(&home, socket, false));
        server.serves(&mut Caller::to(port));
        let asked = UdpSocket::bind("0.0.0.0:0").unwrap();
        // A connected socket takes replies from this address only.
        asked.connect(("127.0.0.2", port)).unwrap();
        asked.set_read_timeout(Some(PATIENCE)).unwrap();
        ask_on(&asked, "Op: ping\nPV: 2.1\nThread: 3000\n\n");
        assert_eq!(server.stop().code(), Some(0));
        let log = home.log();
        assert!(!log.contains("spare sockets") && !log.contains("cannot set"), "{log}");
    }
}

#[test]
fn drops_of_an_earlier_server_are_not_counted_again() {
    let home = Home::open();
    let (socket, port) = socket();
    setsockopt(&socket, sockopt::RxqOvfl, &1).unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
    let caller = Caller::to(port);
    (0..1000).for_each(|thread| caller.send("ping", &[], 2000 + thread));
    socket.set_nonblocking(true).unwrap();
    let read = std::iter::from_fn(|| socket.recv(&mut [0; 1024]).ok()).count();
    assert!((1..1000).contains(&read), "{read}");
    let mut server = Server::start(&home, passing(&home, socket, false));
    server.serves(&mut Caller::to(port));
    assert_eq!(server.stop().code(), Some(0));
    assert!(!home.log().contains("dropped by the kernel"), "{}", home.log());
}

#[test]
fn other_descriptors_are_refused() {
    let home = Home::open();
    let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = bound();
    connected.connect("127.0.0.1:9").unwrap();
    let unbound = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    );
    let one = "LISTEN_PID=$$ LISTEN_FDS=1";
    for (descriptor, variables, text) in [
        (OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()), one, "something else than a UDP socket"),
        (UnixDatagram::unbound().unwrap().into(), one, "something else than a UDP socket"),
        (std::fs::File::open("/dev/null").unwrap().into(), one, "something else than a UDP socket"),
        (connected.into(), one, "a UDP socket that is connected to 127.0.0.1:9"),
        (unbound.unwrap(), one, "a UDP socket without a port"),
        (bound().into(), "LISTEN_PID=$$ LISTEN_FDS=2", "passed 2 sockets, and pyzord serves one"),
        (bound().into(), "LISTEN_PID=$$ LISTEN_FDS=4294967295", "passed 4294967295 sockets"),
        (bound().into(), "LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS = -1"),
        (bound().into(), "LISTEN_PID=$$ LISTEN_FDS=99999999999", "LISTEN_FDS = 99999999999"),
    ] {
        let finished = finish(passing_with(&home, descriptor, false, variables));
        finished.expect_line(&["pyzord: error: ", text]);
    }
}

#[test]
fn sockets_for_another_process_are_ignored() {
    for variables in
        ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_FDS=1", "LISTEN_PID=$$", "LISTEN_PID=$$ LISTEN_FDS=0"]
    {
        let home = Home::open();
        let (socket, _) = socket();
        let mut server = Server::start(&home, passing_with(&home, socket, false, variables));
        server.serves(&mut home.caller());
        assert_eq!(server.stop().code(), Some(0), "{variables}");
        assert!(!home.log().contains("service manager"), "{}", home.log());
    }
}
