//! Tests of servers that reply to pings again.

use super::*;

#[test]
fn one_question_at_a_time_is_asked_on_trial_and_an_answer_of_any_code_ends_the_outage() {
    for code in [200, 403] {
        let mut bench = Bench::new(1);
        bench.fail();
        bench.pong();
        assert_eq!((bench.state(), bench.readiness()), (UpstreamState::OnTrial, Readiness::OneQuestion));
        let sent = bench.ask(1);
        assert_eq!((sent.len(), bench.readiness()), (1, Readiness::Unready));
        assert_eq!((bench.ask(2).len(), bench.answers()), (0, vec![answer(2, None)]));
        bench.reply(&sent[0], code);
        assert_eq!((bench.state(), bench.readiness()), (UpstreamState::Available, Readiness::Ready));
        assert_eq!(bench.events()[0], ServerEvent::Gone(REFUSED.to_owned()));
        assert_eq!(bench.events(), []);
    }
}

#[test]
fn end_of_an_outage_is_reported_with_its_length() {
    let mut bench = Bench::new(1);
    bench.fail();
    bench.pong();
    let sent = bench.ask(1);
    bench.reply_counts(&sent[0], 1, 0);
    let gone = ServerEvent::Gone(REFUSED.to_owned());
    assert_eq!(bench.events(), [gone, ServerEvent::Back(PING_PAUSE)]);
}

#[test]
fn servers_on_trial_are_asked_besides_others() {
    let mut bench = Bench::new(2);
    bench.fail();
    bench.pong();
    assert_eq!((bench.readiness(), bench.ask(1).len(), bench.ask(2).len()), (Readiness::Ready, 2, 1));
}

#[test]
fn server_that_replies_to_pings_only_is_asked_ever_less() {
    let mut bench = Bench::new(1);
    let begin = bench.now;
    bench.fail();
    let mut trials = Vec::new();
    while trials.len() < 9 {
        bench.pong();
        if bench.state() == UpstreamState::OnTrial {
            trials.push((bench.now - begin).as_secs());
            assert_eq!(bench.ask(1).len(), 1);
            bench.after(TIMEOUT).poll();
        }
        assert_eq!(bench.state(), UpstreamState::Unavailable);
    }
    let pauses: Vec<u64> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A pause begins with the timeout of a trial, and ends with a ping.
    assert_eq!(pauses, [3, 5, 9, 17, 33, 61, 61, 61]);
    assert_eq!(bench.events(), [ServerEvent::Gone(REFUSED.to_owned())], "it was never back");
    assert_eq!(bench.status().since_seconds, (bench.now - begin).as_secs());
}

#[test]
fn pause_begins_again_after_a_minute_of_answers() {
    for (seconds, pause) in [(59, 8), (60, 0)] {
        let mut bench = Bench::new(1);
        bench.fail();
        for _ in 0..2 {
            while bench.state() != UpstreamState::OnTrial {
                bench.pong();
            }
            bench.ask_in_vain();
        }
        while bench.state() != UpstreamState::OnTrial {
            bench.pong();
        }
        let sent = bench.ask(1);
        bench.reply_counts(&sent[0], 1, 0);
        bench.after(Duration::from_secs(seconds - 3));
        (0..3).for_each(|_| bench.ask_in_vain());
        assert_eq!(bench.state(), UpstreamState::Unavailable);
        let begin = bench.now;
        while bench.state() != UpstreamState::OnTrial {
            bench.pong();
        }
        assert_eq!((bench.now - begin).as_secs(), pause.max(2), "{seconds}");
    }
}

#[test]
fn server_that_is_restarted_often_is_asked_again_at_once() {
    let mut bench = Bench::new(1);
    for _ in 0..10 {
        bench.fail();
        let begin = bench.now;
        bench.pong();
        assert_eq!((bench.state(), bench.now - begin), (UpstreamState::OnTrial, PING_PAUSE));
        let sent = bench.ask(1);
        bench.reply_counts(&sent[0], 1, 0);
        bench.after(Duration::from_secs(6));
    }
}

#[test]
fn pause_is_the_reason_while_a_silent_server_replies_to_pings() {
    let mut bench = Bench::new(1);
    bench.fail();
    for _ in 0..2 {
        bench.pong();
        bench.ask_in_vain();
    }
    bench.pong();
    let reason = bench.status().reason.unwrap();
    assert_eq!(reason, "it replies to pings, but was silent: it is asked again after a pause");
}

#[test]
fn new_account_is_not_blamed_for_the_refusals_of_the_old_one() {
    let mut bench = Bench::new(1);
    let sent = bench.ask(1);
    bench.reply(&sent[0], 401);
    assert!(bench.status().reason.unwrap().starts_with("last refused: 401"));
    let servers = vec![server(0, Signer::new("eve", "0c"))];
    bench.questions.replace(RemoteDirectory { servers, timeout: TIMEOUT }, bench.now);
    let status = bench.status();
    assert_eq!((status.reason, status.refused_last_minute, bench.counts().refusals()), (None, 0, 1));
}

#[test]
fn full_send_buffer_is_no_failed_trial() {
    let mut bench = Bench::new(1);
    bench.fail();
    bench.pong();
    let sent = bench.questions.ask(digest(1), bench.now, TIME);
    bench.questions.dispatched(&sent[0], DispatchOutcome::Blocked, bench.now);
    assert_eq!((bench.answers(), bench.readiness()), (vec![answer(1, None)], Readiness::OneQuestion));
}
