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
    assert_eq!(bench.delivery.take_events(), [bench.refused(403), Event::Back(Duration::from_secs(1))]);
}

#[test]
fn server_that_only_replies_to_pings_gets_one_request_after_pauses_that_double() {
    let mut bench = Bench::with_units(0, 100);
    let begin = bench.now;
    bench.fail();
    let mut trials = Vec::new();
    while trials.len() < 8 {
        for sent in bench.send() {
            match is_ping(&sent) {
                true => bench.reply(&sent, 200),
                false => trials.push(bench.now.duration_since(begin).as_secs()),
            }
        }
        bench.after(Duration::from_secs(1));
    }
    // Each is silent after 5 s.
    let pauses: Vec<u64> = trials.windows(2).map(|pair| pair[1] - pair[0] - 5).collect();
    for (pause, expected) in pauses.iter().zip([2, 4, 8, 16, 32, 60, 60]) {
        assert!((expected..expected + 3).contains(pause), "{pauses:?}");
    }
    bench.after(Duration::from_secs(5)).send();
    assert_eq!(bench.delivery.shown_since(), begin);
    // It was never back.
    assert_eq!(bench.delivery.take_events(), [Event::Gone("no process uses its port".to_owned())]);
    assert_eq!(bench.delivery.outage_reason(), Some("it replies to pings, but not to requests"));
    assert_eq!((bench.queue.len(), bench.counts()), (92, (8, 0, 0, 80)));
}

#[test]
fn server_that_replies_to_requests_too_late_gets_a_window_and_trials() {
    let mut bench = Bench::with_units(0, 200);
    let late = "its replies come later than Timeout (5 s)";
    let mut under_way: Vec<(Instant, String)> = Vec::new();
    let mut trials = 0;
    for _ in 0..3000 {
        for sent in bench.send() {
            match is_ping(&sent) {
                true => bench.reply(&sent, 200),
                false => under_way.push((bench.now, sent)),
            }
        }
        let now = bench.now;
        let is_due = |(at, _): &(Instant, String)| now.duration_since(*at) >= Duration::from_millis(5_100);
        let due: Vec<(Instant, String)> = under_way.extract_if(.., |it| is_due(it)).collect();
        trials += due.len();
        due.iter().for_each(|(_, request)| bench.reply(request, 200));
        bench.after(Duration::from_millis(100));
    }
    assert_eq!(bench.delivery.outage_reason(), Some(late));
    // In 300 s, the pauses are 2, 4, 8, 16, 32 and 60 s twice, each with the time of a request.
    assert!((WINDOW + 5..=WINDOW + 9).contains(&trials), "{trials}");
    assert_eq!(bench.counts().2, 0);
}

/// Errors that a router reports although the server replies.
#[test]
fn errors_between_replies_delay_nothing() {
    let mut bench = Bench::with_units(0, 100);
    bench.exchange(200);
    for _ in 0..100 {
        for request in bench.send() {
            bench.fail();
            bench.reply(&request, 200);
            assert_ne!(bench.delivery.state(), ForwardState::Unavailable);
        }
        bench.after(Duration::from_millis(10));
    }
    assert_eq!(bench.counts(), (100, 0, 1000, 0));
}

#[test]
fn replies_that_name_no_request_under_way_are_no_sign_of_life() {
    for reply in ["Code: 200\nThread: 1\n\n", "Code: 200\n\n", "Code: 200\nThread: 1024\n\n"] {
        let mut bench = Bench::with_units(0, 40);
        assert_eq!(bench.send().len(), WINDOW);
        for _ in 0..WINDOW {
            bench.delivery.received(reply.as_bytes(), bench.now);
        }
        assert_eq!((bench.delivery.state(), bench.send()), (ForwardState::Untried, Vec::new()));
        bench.after(Duration::from_secs(5)).send();
        assert_eq!(bench.delivery.state(), ForwardState::Unavailable);
        let reason = "no reply to 3 requests in a row, and its replies name none of them";
        assert_eq!(bench.delivery.outage_reason(), Some(reason));
    }
}

#[test]
fn pings_that_are_answered_too_late_end_no_outage() {
    let mut bench = Bench::new(0);
    bench.fail();
    let pings = bench.after(PING_PAUSE).send();
    bench.after(Duration::from_secs(5)).reply(&pings[0], 200);
    assert_eq!(bench.delivery.outage_reason(), Some("its replies come later than Timeout (5 s)"));
    let pings = bench.send();
    bench.after(Duration::from_millis(4_999)).reply(&pings[0], 200);
    assert_eq!(bench.delivery.state(), ForwardState::CatchingUp);
}

#[test]
fn server_whose_name_is_looked_up_for_too_long_is_unavailable() {
    let settings = Bench::new(0).delivery.settings;
    let now = Instant::now();
    let mut bench = Bench { delivery: Delivery::new(settings, now), queue: VecDeque::new(), now };
    bench.queue.push_back(unit(0, 10));
    let poll = |bench: &mut Bench| match bench.delivery.poll(bench.now, TIME, false, || panic!()) {
        Step::Wait(until) => until.map(|until| until - bench.now),
        other => panic!("{other:?}"),
    };
    assert_eq!(poll(&mut bench), Some(Duration::from_secs(5)));
    bench.after(Duration::from_secs(5));
    assert_eq!(poll(&mut bench), Some(PING_PAUSE));
    assert_eq!(bench.delivery.outage_reason(), Some("its name is still being looked up"));
    bench.delivery.resolved(1, true, bench.now);
    bench.pong();
    assert_eq!(bench.exchange(200).len(), 1);
    assert_eq!(bench.delivery.take_events().len(), 2);
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

#[test]
fn server_that_is_restarted_often_is_sent_requests_again_at_once() {
    let mut bench = Bench::new(0);
    for number in 0..10 {
        bench.fail();
        bench.queue.push_back(unit(number, 1));
        bench.pong();
        let sent = bench.send();
        assert_eq!(sent.len(), 1, "{number}");
        bench.reply(&sent[0], 200);
        assert_eq!(bench.delivery.outage_reason(), None);
        bench.after(Duration::from_secs(6));
    }
}

#[test]
fn stop_does_not_wait_for_the_end_of_a_pause_if_the_server_replies_to_pings() {
    for replies in [false, true] {
        let mut bench = Bench::with_units(0, 20);
        bench.fail();
        let mut trials = 0;
        while trials < 3 {
            for sent in bench.send() {
                match is_ping(&sent) {
                    true => bench.reply(&sent, 200),
                    false => trials += 1,
                }
            }
            bench.after(Duration::from_secs(1));
        }
        bench.after(Duration::from_secs(5)).send();
        assert_eq!(bench.delivery.state(), ForwardState::Unavailable);
        for _ in 0..6 {
            let sent = bench.after(Duration::from_secs(1)).send();
            sent.iter().filter(|_| replies).for_each(|ping| bench.reply(ping, 200));
        }
        assert_eq!(bench.delivery.state(), ForwardState::Unavailable, "the pause is longer");
        bench.delivery.hurry(bench.now);
        let sent = bench.send();
        assert_eq!(sent.iter().filter(|text| !is_ping(text)).count(), usize::from(replies));
        if replies {
            bench.reply(&sent[0], 200);
            assert_eq!(bench.send().len(), 16, "everything else, as fast as the server replies");
        }
    }
}
