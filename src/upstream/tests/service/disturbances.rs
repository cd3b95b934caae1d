//! Tests of closed ports, pauses and floods.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn closed_port_completes_questions_at_once_and_the_server_is_tried_when_it_is_back() {
    let (server, address) = remote();
    let mut bench = Bench::new(&[address], LONG);
    bench.ask(&[1]);
    receive(&server);
    drop(server);
    // The error comes with the next datagram to the closed port.
    bench.ask(&[2]);
    assert_eq!(bench.answers(2), [answer(1, None), answer(2, None)]);
    eventually(|| bench.state(0) == UpstreamState::Unavailable);
    assert_eq!(bench.upstream.status()[0].reason.as_deref(), Some("no process uses its port"));
    assert!(!bench.upstream.is_available());
    bench.ask(&[3]);
    assert_eq!(bench.answers(1), [answer(3, None)]);
    let server = UdpSocket::bind(address).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    let (op, thread, from) = receive(&server);
    assert_eq!(op, "ping");
    server.send_to(format!("Code: 200\nThread: {thread}\n\n").as_bytes(), from).unwrap();
    eventually(|| bench.upstream.is_available());
    assert_eq!(bench.state(0), UpstreamState::OnTrial);
    bench.ask(&[4]);
    assert!(!bench.upstream.is_available(), "one question at a time");
    let (op, thread, from) = receive(&server);
    assert_eq!(op, "check");
    server.send_to(&reply(thread, 9, 0), from).unwrap();
    assert_eq!(bench.answers(1), [answer(4, Some((9, 0)))]);
    assert_eq!(bench.state(0), UpstreamState::Available);
    bench.upstream.stop();
}

#[test]
fn replies_that_wait_during_a_pause_of_the_process_are_in_time() {
    let timeout = Duration::from_secs(2);
    let (server, address) = remote();
    let mut bench = Bench::new(&[address], timeout);
    bench.ask(&[1]);
    let (_, thread, from) = receive(&server);
    // The thread does nothing meanwhile. It wakes up before the reply arrives, so that the runtime does not notice that.
    let pause = bench.upstream.shared.questions();
    bench.ask(&[2]);
    std::thread::sleep(Duration::from_millis(100));
    server.send_to(&reply(thread, 5, 0), from).unwrap();
    std::thread::sleep(timeout + Duration::from_millis(100));
    drop(pause);
    assert_eq!(bench.answers(1), [answer(1, Some((5, 0)))]);
    assert_eq!((bench.counts(address).silent, bench.state(0)), (0, UpstreamState::Available));
}

#[test]
fn flood_of_datagrams_from_one_server_delays_neither_others_nor_the_timeout() {
    let ((flooding, flooding_address), (other, other_address)) = (remote(), remote());
    let mut bench = Bench::new(&[flooding_address, other_address], Duration::from_secs(1));
    bench.ask(&[1]);
    let (_, thread, from) = receive(&flooding);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while !is_over.load(Ordering::Relaxed) && begin.elapsed() < LONG {
                let _ = flooding.send_to(&reply(thread ^ 1, 666, 0), from);
            }
        });
        let (_, thread, from) = receive(&other);
        other.send_to(&reply(thread, 2, 0), from).unwrap();
        let answers = bench.answers(1);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(answers, [partial(1, Some((2, 0)))]);
    });
    assert!(bench.counts(flooding_address).unmatched > 0);
    assert_eq!(bench.state(0), UpstreamState::Untried);
}

#[test]
fn no_command_is_lost_when_the_thread_is_late() {
    let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(&[remote.local_addr().unwrap()], Duration::from_secs(1));
    let held = bench.upstream.hold();
    // Each question is a command of its own, far more than are taken at once.
    (0..=255).for_each(|number| bench.ask(&[number]));
    drop(held);
    let expected: Vec<UpstreamAnswer> = (0..=255).map(|number| answer(number, None)).collect();
    assert_eq!(bench.answers(256), expected);
    let held = bench.upstream.hold();
    (0..65).for_each(|number| bench.ask(&[number]));
    let stopped = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| bench.upstream.stop());
        // The command to stop is among those that wait, unless the thread of this test is slow.
        std::thread::yield_now();
        drop(held);
        stopping.join()
    });
    stopped.unwrap();
}
