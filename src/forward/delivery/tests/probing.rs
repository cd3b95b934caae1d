//! Tests of servers that reply to pings, and not to requests.

use super::*;

#[test]
fn after_an_outage_one_request_waits_for_a_reply_before_others_are_sent() {
    let mut bench = Bench::with_units(0, 50);
    bench.fail();
    bench.pong();
    let probe = bench.send();
    assert_eq!(probe.len(), 1);
    assert_eq!(bench.after(Duration::from_secs(1)).send(), [""; 0]);
    bench.delivery.received(b"Code: 200\nThread: 65535\n\n", bench.now);
    assert_eq!(bench.send(), [""; 0], "a reply to no request");
    assert_eq!(bench.delivery.take_events(), [Event::Gone("no process uses its port".to_owned())]);
    bench.reply(&probe[0], 403);
    for _ in 0..100 {
        bench.after(Duration::from_millis(10)).send();
    }
    assert_eq!(bench.delivery.in_flight(), WINDOW);
    assert_eq!(bench.delivery.state(), ForwardState::CatchingUp);
    assert_eq!(bench.delivery.take_events(), [Event::Refused(403), Event::Back(Duration::from_secs(1))]);
}

#[test]
fn server_that_only_replies_to_pings_gets_three_requests_each_time() {
    let mut bench = Bench::with_units(0, 100);
    let begin = bench.now;
    bench.fail();
    for cycle in 1..=5 {
        assert!(is_ping(&bench.after(PING_PAUSE).send()[0]));
        bench.pong();
        for _ in 0..3 {
            assert_eq!(bench.send().len(), 1);
            assert_eq!(bench.delivery.state(), ForwardState::CatchingUp);
            bench.after(Duration::from_secs(5));
        }
        bench.send();
        assert_eq!(
            (bench.delivery.state(), bench.delivery.shown_since()),
            (ForwardState::Unavailable, begin)
        );
        assert_eq!(bench.counts(), (3 * cycle, 0, 0, 30 * cycle));
    }
    // It was never back.
    assert_eq!(bench.delivery.take_events(), [Event::Gone("no process uses its port".to_owned())]);
    assert_eq!((bench.queue.len(), bench.delivery.silent_recently(bench.now)), (85, 110));
}

#[test]
fn outage_ends_with_a_ping_if_nothing_waits() {
    let mut bench = Bench::new(0);
    bench.fail();
    bench.after(PING_PAUSE).send();
    bench.pong();
    bench.send();
    assert_eq!(bench.delivery.state(), ForwardState::Available);
    assert_eq!(bench.delivery.take_events()[1..], [Event::Back(PING_PAUSE)]);
    bench.queue.extend((0..20).map(|number| unit(number, 1)));
    assert_eq!(bench.send().len(), 20);
}
