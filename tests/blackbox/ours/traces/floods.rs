//! A server that never catches up with the requests that come: each of its calls brings as many as it can take.

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

/// How long a flood lasts at most.
const LONGEST: Duration = Duration::from_secs(90);
/// How many requests of an honest client must be answered meanwhile.
const ANSWERS: usize = 10;

fn check(number: u32) -> Vec<u8> {
    format!("Op: check\nOp-Digest: {}\nThread: 4000\nPV: 2.1\n\n", digest(number)).into_bytes()
}

fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket
}

/// Sends more checks than the server can take, until it is over: each call sends many, which the kernel cuts up.
fn flood(port: u16, over: &StopFlag) {
    let socket = socket(port);
    let checks: Vec<u8> = (0..64).flat_map(check).collect();
    let (slices, length) = ([IoSlice::new(&checks)], u16::try_from(check(0).len()).unwrap());
    let segments = [ControlMessage::UdpGsoSegments(&length)];
    let start = Instant::now();
    while !over.is_set() && start.elapsed() < LONGEST {
        match sendmsg::<()>(socket.as_raw_fd(), &slices, &segments, MsgFlags::empty(), None) {
            // The server may have ended.
            Ok(_) | Err(Errno::ECONNREFUSED) => {}
            Err(error) => panic!("no flood: {error}"),
        }
        // Twice what the server can take, so that the kernel does not drop every honest request.
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends this request again and again until enough are answered with this code.
fn answered(port: u16, mut request: impl FnMut() -> Vec<u8>, code: i64) {
    let socket = socket(port);
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (start, mut sent, mut answers) = (Instant::now(), 0, 0);
    let mut buffer = [0; 2000];
    while answers < ANSWERS {
        assert!(start.elapsed() < LONGEST, "{answers} of {sent} requests were answered with {code}");
        // Most are dropped by the kernel, as is most of the flood.
        socket.send(&request()).unwrap();
        sent += 1;
        while let Ok(length) = socket.recv(&mut buffer) {
            answers += usize::from(Reply(buffer[..length].to_vec()).code() == code);
        }
    }
}

/// A server each of whose calls to receive takes so many milliseconds, and brings as much as it can take while
/// there is a flood; and the strace that runs it.
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

/// Where strace writes the calls.
fn calls(home: &Home) -> PathBuf {
    home.parent().join("calls")
}

/// Waits until the flood fills each call. The last line may not be complete.
fn wait_for_flood(home: &Home) {
    eventually("calls that bring as much as they can", || {
        let calls = fs::read_to_string(calls(home)).unwrap();
        let mut last = calls.lines().rev().skip(1).take(4);
        last.all(|call| call.contains(") = 64 (")).then_some(())
    });
}

/// Floods a server. What signals ask for happens, and honest clients are answered.
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
        let honest = digest(7777);
        let request = format!("Op: check\nOp-Digest: {honest}\nThread: 3000\nPV: 2.1\n\n");
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
fn a_flooded_server_hears_signals_and_answers_honest_clients() {
    experiment("");
}

#[test]
fn a_flooded_server_gets_the_answers_of_redis() {
    experiment(&<Redis as Store>::start().settings());
}

#[test]
fn a_flooded_server_gets_the_answers_of_mysql() {
    experiment(&<MariaDb as Store>::start().settings());
}

/// Each call that receives takes half a second, and always brings as much as it can take.
#[test]
fn a_server_that_is_to_stop_does_not_receive_for_longer_than_its_bound() {
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
    // Eight of the turn in which the signal comes, eight of the next one, and ten in five seconds. Without the
    // bound these are 64.
    let count = after.matches("recvmmsg(").count();
    assert!((1..=40).contains(&count), "{count} calls to receive after the signal");
}
