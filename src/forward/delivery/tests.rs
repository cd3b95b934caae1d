//! Tests of delivery, with times that are chosen.

mod failures;
mod probing;

use super::*;
use crate::forward::testing::unit;
use crate::remotes::LOWEST_THREAD;

const TIME: i64 = 1_795_791_819;

/// A delivery with a queue and a clock.
struct Bench {
    delivery: Delivery,
    queue: VecDeque<Arc<ForwardUnit>>,
    now: Instant,
}

impl Bench {
    fn new(retries: u32) -> Self {
        let settings = DeliverySettings {
            signer: Arc::new(Signer::anonymous()),
            timeout: Duration::from_secs(5),
            retries,
            rate: 100,
        };
        let now = Instant::now();
        let mut delivery = Delivery::new(settings, now);
        delivery.resolved(1, false, now);
        Self { delivery, queue: VecDeque::new(), now }
    }

    fn with_units(retries: u32, units: u64) -> Self {
        let mut bench = Self::new(retries);
        bench.queue = (0..units).map(|number| unit(number, 10)).collect();
        bench
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    /// Sends what can be sent; returns the datagrams, pings included.
    fn send(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        self.delivery.catch_up(|| self.queue.len());
        loop {
            match self.delivery.poll(self.now, TIME, true, || self.queue.pop_front()) {
                Step::Send(datagram) => {
                    sent.push(String::from_utf8(datagram.to_vec()).unwrap());
                    self.delivery.sent(self.now);
                }
                Step::Ping(datagram) => sent.push(String::from_utf8(datagram.to_vec()).unwrap()),
                Step::Wait(_) => return sent,
            }
        }
    }

    /// The time until the next step.
    fn wait(&mut self) -> Option<Duration> {
        match self.delivery.poll(self.now, TIME, true, || self.queue.pop_front()) {
            Step::Wait(until) => until.map(|until| until - self.now),
            other => panic!("{other:?}"),
        }
    }

    fn reply(&mut self, request: &str, code: u16) {
        let thread = field(request, "Thread");
        let reply = format!("Code: {code}\nDiag: x\nPV: 2.1\nThread: {thread}\n\n");
        self.delivery.received(reply.as_bytes(), self.now);
    }

    /// Sends what can be sent, and replies to each.
    fn exchange(&mut self, code: u16) -> Vec<String> {
        let sent = self.send();
        sent.iter().for_each(|request| self.reply(request, code));
        sent
    }

    /// Sends a ping at once, to which the server replies.
    fn pong(&mut self) {
        let next = self.delivery.next_ping;
        self.delivery.next_ping = self.now;
        let ping = self.send();
        assert!(ping.len() == 1 && is_ping(&ping[0]), "{ping:?}");
        self.reply(&ping[0], 200);
        self.delivery.next_ping = next;
    }

    /// The event of a refusal with this code.
    fn refused(&self, code: u16) -> Event {
        Event::Refused(code, Arc::clone(&self.delivery.settings.signer))
    }

    fn counts(&self) -> (u64, u64, u64, u64) {
        let counts = self.delivery.counts();
        (counts.requests, counts.resent, counts.accepted, counts.silent)
    }

    /// Makes the server unavailable with an error of the socket.
    fn fail(&mut self) {
        self.delivery.failed("no process uses its port".to_owned(), self.now);
    }
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

fn is_ping(text: &str) -> bool {
    text.starts_with("Op: ping\n")
}

#[test]
fn window_bounds_what_is_in_flight_and_each_reply_makes_room() {
    let mut bench = Bench::with_units(0, 50);
    let sent = bench.send();
    assert_eq!((sent.len(), bench.delivery.in_flight()), (WINDOW, WINDOW));
    let mut threads: Vec<u16> = sent.iter().map(|text| field(text, "Thread").parse().unwrap()).collect();
    assert!(threads.iter().all(|thread| *thread >= LOWEST_THREAD));
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), WINDOW);
    let ids: Vec<&str> = sent.iter().map(|text| field(text, "Forward-Id")).collect();
    assert_eq!(ids[..2], ["0000000000000001-0-1", "0000000000000001-1-1"]);
    bench.reply(&sent[5], 200);
    bench.reply(&sent[7], 200);
    assert_eq!(bench.send().len(), 2);
    assert_eq!(bench.counts(), (34, 0, 20, 0));
    assert_eq!(bench.delivery.state(), ForwardState::Available);
}

#[test]
fn refusals_are_counted_by_code_and_never_sent_again() {
    let mut bench = Bench::with_units(3, 4);
    let sent = bench.send();
    for (request, code) in sent.iter().zip([403, 401, 403, 7]) {
        bench.reply(request, code);
    }
    let refused: Vec<(u16, u64)> = bench.delivery.counts().refused.clone().into_iter().collect();
    assert_eq!(refused, [(0, 10), (401, 10), (403, 20)]);
    assert_eq!(bench.delivery.refused_recently(bench.now), 40);
    assert_eq!(bench.delivery.last_refusal(bench.now), Some((0, &Signer::anonymous())));
    assert_eq!(bench.after(Duration::from_secs(60)).send(), [""; 0]);
    assert_eq!(bench.delivery.last_refusal(bench.now), None);
    assert_eq!(bench.counts(), (4, 0, 0, 0));
}

#[test]
fn silent_requests_are_counted_once_and_not_sent_again() {
    let mut bench = Bench::with_units(0, 2);
    assert_eq!(bench.send().len(), 2);
    assert_eq!(bench.wait(), Some(Duration::from_secs(5)));
    assert_eq!(bench.after(Duration::from_secs(5)).send(), [""; 0]);
    assert_eq!(bench.counts(), (2, 0, 0, 20));
    assert_eq!((bench.delivery.state(), bench.wait()), (ForwardState::Untried, None));
}

#[test]
fn retries_are_the_same_bytes_after_growing_pauses() {
    let mut bench = Bench::with_units(3, 1);
    let first = bench.send();
    for pause in [1, 2, 4] {
        assert_eq!(bench.wait(), Some(Duration::from_secs(pause)));
        assert_eq!(bench.after(Duration::from_secs(pause)).send(), first);
    }
    assert_eq!(bench.wait(), Some(Duration::from_secs(5)));
    bench.after(Duration::from_millis(4_999)).reply(&first[0], 200);
    assert_eq!(bench.counts(), (1, 3, 10, 0));
}

#[test]
fn silence_is_declared_after_the_last_repetition() {
    let mut bench = Bench::with_units(1, 1);
    bench.send();
    assert_eq!(bench.after(Duration::from_secs(1)).send().len(), 1);
    bench.after(Duration::from_millis(4_999)).send();
    assert_eq!(bench.counts(), (1, 1, 0, 0));
    bench.after(Duration::from_millis(1)).send();
    assert_eq!((bench.counts(), bench.delivery.in_flight()), ((1, 1, 0, 10), 0));
}

#[test]
fn burst_that_gets_no_reply_is_sent_again_after_the_outage_except_for_three_requests() {
    let mut bench = Bench::with_units(1, 20);
    let first = bench.send();
    bench.after(Duration::from_secs(1)).send();
    assert_eq!(bench.after(Duration::from_secs(5)).send(), [""; 0]);
    assert_eq!((bench.delivery.state(), bench.counts()), (ForwardState::Unavailable, (20, 20, 0, 30)));
    bench.pong();
    let mut again = Vec::new();
    for _ in 0..40 {
        again.extend(bench.exchange(200));
        bench.after(Duration::from_millis(10));
    }
    assert_eq!(again, first[3..]);
    assert_eq!(bench.counts(), (20, 37, 170, 30));
}

#[test]
fn three_silent_requests_in_a_row_begin_an_outage_and_the_reply_to_a_ping_ends_it() {
    for code in [200, 403] {
        let mut bench = Bench::with_units(0, 40);
        assert_eq!(bench.send().len(), WINDOW);
        assert_eq!(bench.after(Duration::from_secs(5)).send(), [""; 0]);
        assert_eq!(bench.delivery.state(), ForwardState::Unavailable);
        assert_eq!(bench.queue.len(), 8);
        let mut pings = Vec::new();
        for _ in 0..3 {
            assert_eq!(bench.wait(), Some(PING_PAUSE));
            pings = bench.after(PING_PAUSE).send();
            assert!(pings.len() == 1 && is_ping(&pings[0]), "{pings:?}");
        }
        bench.reply(&pings[0], code);
        assert_eq!(bench.delivery.state(), ForwardState::CatchingUp);
        assert_eq!(bench.counts(), (32, 0, 0, 320));
        assert_eq!(bench.exchange(200).len(), 1);
        let events = bench.delivery.take_events();
        assert_eq!(
            events,
            [Event::Gone("no reply to 3 requests in a row".to_owned()), Event::Back(Duration::from_secs(6))]
        );
    }
}

#[test]
fn replies_between_silent_requests_prevent_an_outage() {
    let mut bench = Bench::new(0);
    for number in 0..20 {
        bench.queue.push_back(unit(number, 1));
        let sent = bench.send();
        assert_eq!(sent.len(), 1, "{number}");
        if number % 3 == 2 {
            bench.reply(&sent[0], 200);
        }
        bench.after(Duration::from_secs(5));
    }
    assert_eq!(bench.delivery.state(), ForwardState::Available);
}

#[test]
fn requests_lost_between_answered_ones_are_not_in_a_row() {
    let mut bench = Bench::new(0);
    for number in 0..5 {
        bench.queue.extend([unit(2 * number, 10), unit(2 * number + 1, 10)]);
        let sent = bench.send();
        assert_eq!(sent.len(), 2);
        bench.reply(&sent[1], 200);
        bench.after(Duration::from_millis(100));
    }
    bench.after(Duration::from_secs(6)).send();
    assert_ne!(bench.delivery.state(), ForwardState::Unavailable);
}

#[test]
fn what_is_not_a_reply_ends_no_outage() {
    let mut bench = Bench::new(0);
    bench.fail();
    bench.after(PING_PAUSE).send();
    let others = [
        "Code: 403\nThread: 7\n\n",
        "Code: 400\nDiag: x\nThread: \n\n",
        "Code: 200\nThread: 65000\n\n",
        "Code: 200\n\n",
    ];
    for text in ["", "Hello", "\n\n", "Op: ping\n"].into_iter().chain(others) {
        bench.delivery.received(text.as_bytes(), bench.now);
        assert_eq!(bench.delivery.state(), ForwardState::Unavailable, "{text}");
    }
}

#[test]
fn backlog_is_emptied_at_the_rate_and_then_the_window_alone_counts() {
    let mut bench = Bench::with_units(0, 300);
    bench.fail();
    bench.pong();
    let start = bench.now;
    let mut sent = 0;
    while !bench.queue.is_empty() {
        for request in bench.send() {
            sent += 1;
            bench.reply(&request, 200);
        }
        bench.after(Duration::from_millis(1));
        let allowed = bench.now.duration_since(start).as_millis() as u64 / 10 + 2;
        assert!(sent <= allowed, "{sent} of {allowed}");
    }
    assert!(bench.now.duration_since(start) <= Duration::from_millis(3_010));
    bench.after(Duration::from_millis(10)).send();
    assert_eq!(bench.delivery.state(), ForwardState::Available);
    bench.queue.extend((0..20).map(|number| unit(number, 1)));
    assert_eq!(bench.send().len(), 20);
}

#[test]
fn what_never_left_goes_back_into_the_queue() {
    let mut bench = Bench::with_units(0, 2);
    let Step::Send(_) = bench.delivery.poll(bench.now, TIME, true, || bench.queue.pop_front()) else {
        panic!("nothing to send")
    };
    let returned = bench.delivery.unsent(Unsent::Failed("no route".to_owned()), bench.now).unwrap();
    assert_eq!((returned.id.number, bench.delivery.outage_reason()), (0, Some("no route")));
    assert_eq!((bench.counts(), bench.delivery.is_idle()), ((0, 0, 0, 0), true));
    bench.pong();
    let Step::Send(_) = bench.delivery.poll(bench.now, TIME, true, || Some(returned)) else {
        panic!("nothing to send")
    };
    assert!(bench.delivery.unsent(Unsent::Blocked, bench.now).is_some());
    assert_eq!(bench.wait(), Some(BLOCKED_PAUSE));
    assert_eq!(bench.delivery.state(), ForwardState::CatchingUp);
}

#[test]
fn unanswered_requests_are_sent_again_after_an_outage_only_with_retries() {
    for (retries, again) in [(0, 0), (2, 3)] {
        let mut bench = Bench::with_units(retries, 3);
        let first = bench.send();
        bench.fail();
        for _ in 0..5 {
            bench.after(PING_PAUSE).send();
        }
        bench.pong();
        let mut sent = Vec::new();
        for _ in 0..10 {
            sent.extend(bench.exchange(200));
            bench.after(Duration::from_millis(10));
        }
        assert_eq!(sent, first[..again]);
        let accepted = 10 * again as u64;
        assert_eq!(bench.counts(), (3, again as u64, accepted, 30 - accepted));
    }
}

#[test]
fn requests_that_are_too_old_are_not_sent_again() {
    let mut bench = Bench::with_units(2, 1);
    bench.send();
    bench.fail();
    bench.after(Duration::from_secs(240)).send();
    bench.pong();
    assert_eq!(bench.send(), [""; 0]);
    assert_eq!(bench.counts(), (1, 0, 0, 10));
}

#[test]
fn late_replies_count_and_end_an_outage() {
    let mut bench = Bench::with_units(0, 3);
    let sent = bench.send();
    bench.fail();
    bench.after(Duration::from_secs(1)).reply(&sent[1], 200);
    assert_eq!((bench.delivery.state(), bench.counts()), (ForwardState::CatchingUp, (3, 0, 10, 0)));
    bench.after(Duration::from_secs(4)).send();
    assert_eq!((bench.delivery.state(), bench.counts()), (ForwardState::Available, (3, 0, 10, 20)));
}

#[test]
fn servers_with_other_addresses_are_pinged_at_once_but_not_more_often() {
    let mut bench = Bench::with_units(0, 3);
    bench.delivery.resolved(2, true, bench.now);
    bench.fail();
    assert!(is_ping(&bench.send()[0]));
    assert_eq!(bench.wait(), Some(PING_PAUSE));
    bench.pong();
    bench.fail();
    assert_eq!(bench.wait(), Some(PING_PAUSE));
    bench.delivery.resolved(2, true, bench.now);
    assert_eq!(bench.wait(), Some(PING_PAUSE));
}

#[test]
fn rate_applies_to_what_was_queued_during_the_outage_only() {
    let mut bench = Bench::with_units(0, 50);
    bench.fail();
    bench.pong();
    // 200 requests per second come in, which is twice the rate.
    for number in 50..350 {
        bench.queue.push_back(unit(number, 1));
        bench.send().iter().for_each(|request| bench.reply(request, 200));
        bench.after(Duration::from_millis(5));
    }
    bench.send();
    assert_eq!((bench.delivery.state(), bench.queue.len()), (ForwardState::Available, 0));
}

#[test]
fn window_counts_silent_requests_until_a_reply() {
    let mut bench = Bench::new(0);
    for number in 0..400 {
        bench.queue.push_back(unit(number, 10));
        bench.send();
        bench.after(Duration::from_millis(20));
    }
    assert_eq!((bench.delivery.state(), bench.counts().0), (ForwardState::Unavailable, WINDOW as u64));
}

#[test]
fn refusals_without_a_thread_are_reported() {
    let mut bench = Bench::with_units(0, 1);
    bench.send();
    for (reply, code) in
        [("Code: 401\nDiag: x\nThread: 0\n\n", 401), ("Code: 400\nDiag: x\nThread: \n\n", 400)]
    {
        bench.delivery.received(reply.as_bytes(), bench.now);
        assert_eq!(bench.delivery.take_events(), [bench.refused(code)]);
    }
}

#[test]
fn reply_with_the_thread_of_no_request_changes_no_count() {
    let mut bench = Bench::with_units(0, 1);
    let sent = bench.send();
    let thread: u16 = field(&sent[0], "Thread").parse().unwrap();
    for other in [0, 1023, u64::from(thread ^ 1), u64::from(thread) + 65_536] {
        bench.delivery.received(format!("Code: 200\nThread: {other}\n\n").as_bytes(), bench.now);
    }
    assert_eq!((bench.counts(), bench.delivery.in_flight()), ((1, 0, 0, 0), 1));
    bench.reply(&sent[0], 200);
    bench.reply(&sent[0], 200);
    assert_eq!((bench.counts(), bench.delivery.in_flight()), ((1, 0, 10, 0), 0));
}

#[test]
fn what_is_under_way_at_the_end_is_counted_as_silent() {
    let mut bench = Bench::with_units(1, 3);
    bench.send();
    assert_eq!((bench.delivery.abandon(bench.now), bench.counts()), (30, (3, 0, 0, 30)));
}
