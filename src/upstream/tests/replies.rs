//! Tests of which replies belong to which requests, and of the sockets from which those are sent.

use super::*;

#[test]
fn only_the_thread_that_was_sent_from_the_socket_counts() {
    let mut bench = Bench::new(1);
    let sent: Vec<Dispatch> = (0..30).flat_map(|number| bench.ask(number)).collect();
    let elsewhere = sent.iter().find(|other| other.socket != sent[0].socket).unwrap();
    let right = u64::from(thread(&sent[0]));
    let ok = |thread: u64| format!("Code: 200\nThread: {thread}\nCount: 1\nWL-Count: 1\n\n");
    bench.receive(elsewhere, &ok(right));
    for wrong in [0, 1023, right + 65_536] {
        bench.receive(&sent[0], &ok(wrong));
    }
    for text in ["", "Hello", "Code: 401\nThread: \n\n", "Code: 200\nCount: 1\nWL-Count: 1\n\n"] {
        bench.receive(&sent[0], text);
    }
    assert_eq!((bench.answers(), bench.state()), (vec![], UpstreamState::Untried));
    assert_eq!(bench.counts().unmatched, 8);
    bench.receive(&sent[0], &ok(right));
    bench.receive(&sent[0], &ok(right));
    assert_eq!((bench.answers().len(), bench.counts().unmatched), (1, 9));
}

#[test]
fn questions_are_distributed_to_four_sockets_with_unequal_threads() {
    let mut bench = Bench::new(1);
    let sent: Vec<Dispatch> = (0..200).flat_map(|number| bench.ask(number)).collect();
    let mut pairs: Vec<_> = sent.iter().map(|dispatch| (dispatch.socket, thread(dispatch))).collect();
    assert!(pairs.iter().all(|(_, thread)| *thread >= 1024));
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), 200);
    pairs.dedup_by_key(|(socket, _)| *socket);
    assert_eq!(pairs.len(), 4);
}

#[test]
fn sockets_are_replaced_after_a_minute_and_the_old_ones_kept_for_replies() {
    let mut bench = Bench::with_timeout(1, Duration::from_secs(50));
    let early: Vec<Dispatch> = (0..50).flat_map(|number| bench.ask(number)).collect();
    early[1..].iter().for_each(|dispatch| bench.reply_counts(dispatch, 1, 0));
    bench.after(Duration::from_secs(49));
    bench.reply_counts(&early[0], 1, 0);
    let before: Vec<Dispatch> = (0..50).flat_map(|number| bench.ask(number)).collect();
    bench.after(Duration::from_secs(11));
    let after: Vec<Dispatch> = (0..50).flat_map(|number| bench.ask(number)).collect();
    let is_kept = |dispatch: &Dispatch| early.iter().any(|other| other.socket == dispatch.socket);
    assert!(before.iter().all(is_kept) && !after.iter().any(is_kept));
    let uses = |bench: &mut Bench, dispatch: &Dispatch| bench.questions.servers()[0].uses(dispatch.socket);
    assert!(uses(&mut bench, &before[0]));
    bench.answers();
    before.iter().for_each(|dispatch| bench.reply_counts(dispatch, 2, 0));
    assert_eq!((bench.answers().len(), bench.counts().unmatched), (50, 0));
    assert!(!uses(&mut bench, &before[0]) && uses(&mut bench, &after[0]));
}

#[test]
fn sockets_are_replaced_after_a_thousand_questions() {
    let mut bench = Bench::new(1);
    let mut numbers = std::collections::BTreeMap::new();
    for _ in 0..9000 {
        let sent = bench.ask(1);
        *numbers.entry(sent[0].socket).or_insert(0) += 1;
        bench.reply_counts(&sent[0], 1, 0);
    }
    assert!(numbers.len() >= 9 && numbers.values().all(|number| *number <= 1000), "{numbers:?}");
    assert_eq!(bench.answers().len(), 9000);
}

#[test]
fn sockets_that_are_kept_for_replies_are_bounded_and_each_question_has_an_answer() {
    let mut bench = Bench::with_timeout(1, Duration::from_secs(3600));
    let sent: Vec<Dispatch> = (0..40_000_u32).flat_map(|number| bench.ask(number as u8)).collect();
    let mut sockets: Vec<_> = sent.iter().map(|dispatch| dispatch.socket).collect();
    sockets.sort_unstable();
    sockets.dedup();
    sockets.retain(|socket| bench.questions.servers()[0].uses(*socket));
    assert!(sockets.len() <= 20, "{}", sockets.len());
    assert_eq!(bench.answers().len() as u64, bench.counts().silent);
    assert_eq!(bench.status().in_flight, 40_000 - bench.counts().silent);
    sent.iter().for_each(|dispatch| bench.reply_counts(dispatch, 1, 0));
    assert_eq!((bench.status().in_flight, bench.counts().silent), (0, bench.counts().unmatched));
}

#[test]
fn reply_to_a_ping_is_none_to_a_question_and_the_other_way_round() {
    let mut bench = Bench::new(1);
    let question = bench.ask(1);
    bench.fail();
    assert_eq!(bench.answers(), [answer(1, None)]);
    bench.after(PING_PAUSE);
    let ping = bench.poll();
    assert!(is_ping(&ping[0]) && !text(&ping[0]).contains("Local-Only"));
    bench.reply_counts(&question[0], 7, 7);
    assert_eq!(bench.state(), UpstreamState::Unavailable, "a late answer is no reply to a ping");
    bench.reply_counts(&ping[0], 7, 7);
    assert_eq!((bench.answers(), bench.state()), (vec![], UpstreamState::OnTrial));
    let question = bench.ask(2);
    bench.reply_counts(&ping[0], 7, 7);
    assert_eq!((bench.answers(), bench.state()), (vec![], UpstreamState::OnTrial));
    bench.reply_counts(&question[0], 1, 0);
    assert_eq!(bench.answers(), [answer(2, Some((1, 0)))]);
}
