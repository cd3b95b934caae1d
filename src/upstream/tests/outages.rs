//! Tests of when a server becomes unavailable, and of pings.

use super::*;

#[test]
fn three_silent_questions_in_a_row_make_a_server_unavailable() {
    let mut bench = Bench::new(1);
    for _ in 0..2 {
        bench.ask_in_vain();
        assert_eq!((bench.state(), bench.readiness()), (UpstreamState::Untried, Readiness::Ready));
    }
    bench.ask_in_vain();
    assert_eq!((bench.state(), bench.readiness()), (UpstreamState::Unavailable, Readiness::Unready));
    let reason = "no reply in time to 3 questions in a row";
    assert_eq!(bench.events(), [ServerEvent::Gone(reason.to_owned())]);
    assert_eq!(bench.status().reason.as_deref(), Some(reason));
    assert_eq!((bench.counts().sent, bench.counts().silent), (3, 3));
}

#[test]
fn one_lost_burst_does_not_make_a_server_unavailable() {
    let mut bench = Bench::new(1);
    for _ in 0..25 {
        bench.ask(1);
        bench.after(Duration::from_millis(10));
    }
    bench.after(TIMEOUT).poll();
    assert_eq!((bench.state(), bench.counts().silent), (UpstreamState::Untried, 25));
}

#[test]
fn stream_of_silent_questions_is_noticed_within_half_a_second_and_the_timeout() {
    let mut bench = Bench::new(1);
    let start = bench.now;
    while bench.state() == UpstreamState::Untried {
        bench.ask(1);
        bench.after(Duration::from_millis(10)).poll();
    }
    assert_eq!(bench.now - start, TIMEOUT + Duration::from_millis(500));
    assert_eq!(bench.answers().len() as u64, bench.counts().sent, "questions under way are complete");
}

#[test]
fn reply_in_time_of_any_code_begins_a_new_row() {
    for code in [200, 400, 401, 403, 500, 7] {
        let mut bench = Bench::new(1);
        for round in 0..10 {
            let sent = bench.ask(1);
            if round % 3 == 2 {
                bench.reply(&sent[0], code);
            }
            bench.after(TIMEOUT).poll();
        }
        assert_eq!(bench.state(), UpstreamState::Available, "{code}");
    }
}

#[test]
fn questions_lost_between_answered_ones_are_not_in_a_row() {
    let mut bench = Bench::new(1);
    for _ in 0..5 {
        bench.ask(1);
        bench.after(Duration::from_millis(150));
        let sent = bench.ask(2);
        bench.reply_counts(&sent[0], 1, 0);
        bench.after(Duration::from_millis(150)).poll();
    }
    bench.after(TIMEOUT).poll();
    assert_eq!((bench.state(), bench.counts().silent), (UpstreamState::Available, 5));
}

#[test]
fn late_and_unmatched_replies_do_not_begin_a_new_row() {
    let mut bench = Bench::new(1);
    for _ in 0..3 {
        let sent = bench.ask(1);
        bench.receive(&sent[0], "Code: 200\nThread: 7\nCount: 1\nWL-Count: 1\n\n");
        bench.after(TIMEOUT).poll();
        bench.reply_counts(&sent[0], 1, 0);
    }
    assert_eq!((bench.state(), bench.counts().unmatched), (UpstreamState::Unavailable, 6));
}

#[test]
fn pause_of_the_process_is_no_silence() {
    let mut bench = Bench::new(1);
    let sent: Vec<Dispatch> = (0..3)
        .flat_map(|number| {
            bench.after(Duration::from_millis(300));
            bench.ask(number)
        })
        .collect();
    // What waits in the sockets is received before silence is judged.
    bench.after(Duration::from_secs(3600));
    sent.iter().for_each(|dispatch| bench.reply_counts(dispatch, 1, 0));
    bench.poll();
    assert_eq!((bench.state(), bench.answers().len()), (UpstreamState::Available, 3));
    assert_eq!((bench.counts().answered, bench.counts().silent), (3, 0));
}

#[test]
fn error_of_a_socket_completes_questions_at_once() {
    let mut bench = Bench::new(2);
    let sent = bench.ask(1);
    bench.reply_counts(&sent[1], 2, 0);
    let now = bench.now;
    bench.questions.with_server(sent[0].server, |server| {
        server.socket_failed(sent[0].socket, REFUSED.to_owned(), now);
    });
    assert_eq!(
        (bench.answers(), bench.state()),
        (vec![partial(1, Some((2, 0)))], UpstreamState::Unavailable)
    );
    assert_eq!(bench.status().reason.as_deref(), Some(REFUSED));
    assert_eq!(bench.ask(2).len(), 1, "the other server alone is asked");
}

#[test]
fn question_that_cannot_be_sent_is_complete_at_once() {
    let mut bench = Bench::new(1);
    let sent = bench.questions.ask(digest(1), bench.now, TIME);
    bench.questions.dispatched(&sent[0], DispatchOutcome::Failed("no route".to_owned()), bench.now);
    assert_eq!((bench.answers(), bench.state()), (vec![answer(1, None)], UpstreamState::Unavailable));
}

#[test]
fn unavailable_servers_are_pinged_every_two_seconds_and_looked_up() {
    let mut bench = Bench::new(1);
    assert!(bench.questions.servers()[0].take_look_up());
    bench.fail();
    for _ in 0..5 {
        assert_eq!(bench.wait(), Some(PING_PAUSE));
        assert!(!bench.questions.servers()[0].take_look_up());
        let pings = bench.after(PING_PAUSE).poll();
        assert!(pings.len() == 1 && is_ping(&pings[0]));
        assert!(bench.questions.servers()[0].take_look_up());
    }
    assert_eq!((bench.ask(1).len(), bench.counts().sent), (0, 0));
}

#[test]
fn all_addresses_are_pinged_in_turn_and_the_one_that_replies_is_used() {
    let mut bench = Bench::new(1);
    let (id, now) = (bench.id(0), bench.now);
    bench.questions.with_server(id, |server| server.resolved(addresses(&[0, 1, 2]), now));
    bench.fail();
    let first = bench.poll().remove(0);
    let second = bench.after(PING_PAUSE).poll().remove(0);
    let third = bench.after(PING_PAUSE).poll().remove(0);
    assert_eq!([first.address, second.address, third.address], addresses(&[1, 2, 0])[..]);
    bench.reply(&second, 200);
    assert_eq!(bench.state(), UpstreamState::Unavailable, "too late");
    bench.reply(&third, 200);
    assert_eq!(bench.ask(1)[0].address, addresses(&[0])[0]);
    bench.fail();
    let ping = bench.after(PING_PAUSE).poll().remove(0);
    assert_eq!(ping.address, addresses(&[1])[0], "not sooner than two seconds after the last ping");
}

#[test]
fn slow_servers_have_the_timeout_to_reply_to_pings() {
    let mut bench = Bench::with_timeout(1, Duration::from_secs(5));
    bench.fail();
    let first = bench.after(PING_PAUSE).poll().remove(0);
    let second = bench.after(PING_PAUSE).poll().remove(0);
    assert_eq!(first.socket, second.socket);
    bench.after(Duration::from_millis(2_999)).poll();
    bench.reply(&first, 200);
    assert_eq!(bench.state(), UpstreamState::OnTrial);
    bench.fail();
    let late = bench.after(PING_PAUSE).poll().remove(0);
    bench.after(Duration::from_secs(5)).poll();
    bench.reply(&late, 200);
    assert_eq!(bench.state(), UpstreamState::Unavailable);
}

#[test]
fn errors_of_sockets_that_were_closed_say_nothing() {
    let mut bench = Bench::new(1);
    bench.fail();
    let old = bench.after(PING_PAUSE).poll().remove(0);
    bench.pong();
    let now = bench.now;
    bench.questions.with_server(old.server, |server| {
        server.socket_failed(old.socket, REFUSED.to_owned(), now);
    });
    assert_eq!(bench.state(), UpstreamState::OnTrial);
}

#[test]
fn server_without_a_usable_address_is_not_sent_anything() {
    let mut bench = Bench::new(1);
    let (id, now) = (bench.id(0), bench.now);
    bench.questions.with_server(id, |server| server.is_own(now));
    for _ in 0..3 {
        assert_eq!(bench.after(PING_PAUSE).poll().len(), 0);
        assert!(bench.questions.servers()[0].take_look_up());
    }
    assert_eq!((bench.ask(1).len(), bench.events()), (0, vec![]));
    let now = bench.now;
    bench.questions.with_server(id, |server| server.resolved(addresses(&[5]), now));
    bench.pong();
    assert_eq!(bench.ask(1)[0].address, addresses(&[5])[0]);
}

#[test]
fn name_that_cannot_be_resolved_makes_a_server_unavailable_until_it_can() {
    let mut questions = Questions::new(TIMEOUT);
    let now = Instant::now();
    questions.replace(directory(&[0]), now);
    let mut bench = Bench { questions, now };
    let id = bench.id(0);
    bench.questions.with_server(id, |server| server.unresolved("unknown name".to_owned(), now));
    assert_eq!(bench.events(), [ServerEvent::Gone("unknown name".to_owned())]);
    bench.questions.with_server(id, |server| server.resolved(addresses(&[1]), now));
    bench.pong();
    assert_eq!((bench.now, bench.state()), (now, UpstreamState::OnTrial));
}

#[test]
fn name_that_is_looked_up_for_long_makes_a_server_unavailable() {
    let mut bench = Bench::new(0);
    bench.questions.replace(directory(&[0]), bench.now);
    assert_eq!(bench.wait(), Some(PING_PAUSE));
    bench.after(PING_PAUSE).poll();
    assert_eq!(bench.state(), UpstreamState::Unavailable);
    assert_eq!(bench.status().reason.as_deref(), Some("its name is still being looked up"));
    let (id, now) = (bench.id(0), bench.now);
    bench.questions.with_server(id, |server| server.resolved(addresses(&[0]), now));
    bench.pong();
    assert_eq!(bench.state(), UpstreamState::OnTrial);
}

#[test]
fn address_that_a_name_has_no_more_at_a_reload_is_left() {
    let mut bench = Bench::new(1);
    let before = bench.ask(1);
    assert!(bench.questions.servers()[0].take_look_up());
    assert!(!bench.questions.servers()[0].take_look_up());
    bench.questions.replace(directory(&[0]), bench.now);
    assert!(bench.questions.servers()[0].take_look_up());
    let (id, now) = (bench.id(0), bench.now);
    for (listed, used) in [(vec![5, 0], 0), (vec![6, 5], 6)] {
        bench.questions.with_server(id, |server| server.resolved(addresses(&listed), now));
        assert_eq!(bench.ask(2)[0].address, addresses(&[used])[0]);
    }
    bench.reply_counts(&before[0], 1, 0);
    assert_eq!(bench.answers(), [answer(1, Some((1, 0)))], "replies from the old address are awaited");
}
