//! A server that never catches up with a flood: every receive call returns a full batch.

use std::fs;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::{
    Account, Home, MariaDb, Process, Redis, Reply, Server, StopFlag, digest, eventually, unix_time,
};
use crate::ours::outages::Store;

/// The longest time of a flood.
const LONGEST: Duration = Duration::from_secs(90);
/// The number of requests of a well-behaved client that must be answered during the flood.
const ANSWERS: usize = 10;

fn check(number: u32) -> Vec<u8> {
    format!("Op: check\nOp-Digest: {}\nThread: 4000\nPV: 2.1\n\n", digest(number)).into_bytes()
}

fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket
}

/// Sends more checks than the server can handle until `over` is set. Each call sends many, which the kernel splits.
fn flood(port: u16, over: &StopFlag) {
    let socket = socket(port);
    let checks: Vec<u8> = (0..64).flat_map(check).collect();
    let (slices, length) = ([IoSlice::new(&checks)], u16::try_from(check(0).len()).unwrap());
    let segments = [ControlMessage::UdpGsoSegments(&length)];
    let start = Instant::now();
    while !over.is_set() && start.elapsed() < LONGEST {
        match sendmsg::<()>(socket.as_raw_fd(), &slices, &segments, MsgFlags::empty(), None) {
            // The server may have exited.
            Ok(_) | Err(Errno::ECONNREFUSED) => {}
            Err(error) => panic!("no flood: {error}"),
        }
        // Twice as many as the server can handle, so that the kernel drops only some of the other requests.
        thread::sleep(Duration::from_millis(5));
    }
}

/// Repeats a request until enough replies have this code.
fn answered(port: u16, mut request: impl FnMut() -> Vec<u8>, code: i64) {
    let socket = socket(port);
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (start, mut sent, mut answers) = (Instant::now(), 0, 0);
    let mut buffer = [0; 2000];
    while answers < ANSWERS {
        assert!(start.elapsed() < LONGEST, "{answers} of {sent} requests were answered with {code}");
        // The kernel drops most of them, like most of the flood.
        socket.send(&request()).unwrap();
        sent += 1;
        while let Ok(length) = socket.recv(&mut buffer) {
            answers += usize::from(Reply(buffer[..length].to_vec()).code() == code);
        }
    }
}

/// Starts a server under strace, which delays each receive call, so that a flood fills every batch. Returns strace and
/// the server process.
fn slow(home: &Home, milliseconds: u32) -> (Server, Process) {
    let injection = format!("inject=recvmmsg:delay_enter={milliseconds}000");
    let trace = format!(
        "strace -f --seccomp-bpf -qq -o '{}' -e trace=recvmmsg -e {injection}",
        calls(home).display()
    );
    let mut tracer = Server::start(home, home.under(&format!("exec nice -n 19 {trace} \"$@\""), false));
    tracer.serves(&mut home.caller());
    let server = tracer.process().child();
    (tracer, server)
}

/// The file of calls written by strace.
fn calls(home: &Home) -> PathBuf {
    home.parent().join("calls")
}

/// Waits until the flood fills every batch.
fn wait_for_flood(home: &Home) {
    eventually("full batches", || {
        let calls = fs::read_to_string(calls(home)).unwrap();
        // The last line may be incomplete.
        let mut last = calls.lines().rev().skip(1).take(4);
        last.all(|call| call.contains(") = 64 (")).then_some(())
    });
}

/// Floods a server, and checks that it handles signals and answers well-behaved clients.
fn experiment(settings: &str) {
    let (old, new) = (Account::new("old"), Account::new("new"));
    let home = Home::open().config(settings).passwd(old.passwd());
    home.rewrite("pyzord.access", "all : anonymous : allow\nall : all : allow\n");
    let (mut tracer, server) = slow(&home, 10);
    let over = StopFlag::default();
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        scope.spawn(|| flood(home.port(), &over));
        wait_for_flood(&home);
        let known = digest(7777);
        let request = format!("Op: check\nOp-Digest: {known}\nThread: 3000\nPV: 2.1\n\n");
        answered(home.port(), || request.clone().into_bytes(), 200);
        home.rewrite("pyzord.passwd", new.passwd());
        server.signal(Signal::SIGUSR1);
        let signed = || new.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time());
        answered(home.port(), signed, 200);
        answered(home.port(), || request.clone().into_bytes(), 200);
        server.signal(Signal::SIGTERM);
        assert!(tracer.ended().success());
        drop(guard);
    });
    let log = home.log();
    assert!(log.contains("Server shutdown."), "{log}");
}

#[test]
fn flooded_server_handles_signals_and_answers_other_clients() {
    experiment("");
}

#[test]
fn flooded_server_receives_the_replies_of_redis() {
    experiment(&<Redis as Store>::start().settings());
}

#[test]
fn flooded_server_receives_the_replies_of_mysql() {
    experiment(&<MariaDb as Store>::start().settings());
}

/// Each receive call takes half a second and returns a full batch.
#[test]
fn stopping_server_stops_receiving_after_a_time_limit() {
    let home = Home::open();
    let (mut tracer, server) = slow(&home, 500);
    let over = StopFlag::default();
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        scope.spawn(|| flood(home.port(), &over));
        wait_for_flood(&home);
        server.signal(Signal::SIGTERM);
        assert!(tracer.ended().success());
        drop(guard);
    });
    let calls = fs::read_to_string(calls(&home)).unwrap();
    let (_, after) = calls.split_once("--- SIGTERM").unwrap();
    // Eight in the turn during which the signal arrives, eight in the next one, and ten in five seconds. Without the
    // time limit these ten would be 64.
    let count = after.matches("recvmmsg(").count();
    assert!((1..=40).contains(&count), "{count} calls to receive after the signal");
}
