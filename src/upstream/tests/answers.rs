//! Tests of answers that are gathered from several servers.

use super::*;

#[test]
fn question_is_a_check_that_asks_for_the_database_alone_and_is_signed_with_the_account() {
    let mut bench = Bench::new(1);
    bench.questions.replace(
        RemoteDirectory { servers: vec![server(0, Signer::new("bob", "c0de"))], timeout: TIMEOUT },
        bench.now,
    );
    let sent = bench.ask(7);
    let expected = format!(
        "Op: check\nOp-Spec: 20,3,60,3\nOp-Digest: {}\nLocal-Only: yes\nThread: {}\nPV: 2.1\nUser: bob\nTime: {TIME}\nSig: ",
        digest(7),
        thread(&sent[0])
    );
    assert!(text(&sent[0]).starts_with(&expected), "{}", text(&sent[0]));
}

#[test]
fn answer_is_given_when_all_servers_have_replied() {
    let mut bench = Bench::new(3);
    let sent = bench.ask(1);
    bench.reply_counts(&sent[0], 5, 0);
    bench.reply(&sent[1], 403);
    assert_eq!(bench.answers(), []);
    bench.reply_counts(&sent[2], 3, 8);
    assert_eq!(bench.answers(), [partial(1, Some((5, 8)))]);
    assert_eq!(bench.wait(), None);
}

#[test]
fn answer_is_complete_if_all_others_have_answered_with_counts() {
    let mut bench = Bench::new(3);
    let sent = bench.ask(1);
    sent.iter().for_each(|question| bench.reply_counts(question, 5, 0));
    assert_eq!(bench.answers(), [answer(1, Some((5, 0)))]);
    bench.fail();
    let sent = bench.ask(2);
    sent.iter().for_each(|question| bench.reply_counts(question, 5, 0));
    assert_eq!(bench.answers(), [partial(2, Some((5, 0)))], "one was not asked");
    let (id, now) = (bench.id(0), bench.now);
    bench.questions.with_server(id, |server| server.is_own(now));
    let sent = bench.ask(3);
    sent.iter().for_each(|question| bench.reply_counts(question, 0, 0));
    assert_eq!(bench.answers(), [answer(3, Some((0, 0)))], "this server itself knows nothing more");
}

#[test]
fn answer_at_the_timeout_has_what_came_in_time() {
    let mut bench = Bench::new(2);
    let sent = bench.ask(1);
    bench.reply_counts(&sent[1], 5, 1);
    assert_eq!(bench.wait(), Some(TIMEOUT));
    bench.after(TIMEOUT - Duration::from_millis(1)).poll();
    assert_eq!(bench.answers(), []);
    bench.after(Duration::from_millis(1)).poll();
    assert_eq!(bench.answers(), [partial(1, Some((5, 1)))]);
    bench.reply_counts(&sent[0], 100, 100);
    assert_eq!((bench.answers(), bench.counts().unmatched), (vec![], 1));
}

#[test]
fn negative_counts_are_zero_and_found_nowhere_is_an_answer() {
    let mut bench = Bench::new(2);
    let sent = bench.ask(1);
    bench.reply_counts(&sent[0], -5, i64::MIN);
    bench.reply_counts(&sent[1], 0, -1);
    assert_eq!(bench.answers(), [answer(1, Some((0, 0)))]);
}

#[test]
fn nothing_but_refusals_and_silence_is_no_answer() {
    let mut bench = Bench::new(2);
    let sent = bench.ask(1);
    bench.reply(&sent[0], 401);
    bench.after(TIMEOUT).poll();
    assert_eq!(bench.answers(), [answer(1, None)]);
}

#[test]
fn success_without_counts_and_echoes_are_refused_with_code_0() {
    let mut bench = Bench::new(1);
    for reply in [
        "Code: 200\nThread: NUMBER\n\n",
        "Code: 200\nThread: NUMBER\nCount: 5\n\n",
        "Op: check\nThread: NUMBER\nCount: 5\nWL-Count: 5\n\n",
        "Code: 299\nThread: NUMBER\nCount: 5\nWL-Count: 5\n\n",
    ] {
        let sent = bench.ask(1);
        bench.receive(&sent[0], &reply.replace("NUMBER", &thread(&sent[0]).to_string()));
        assert_eq!(bench.answers(), [answer(1, None)], "{reply}");
    }
    assert_eq!((bench.counts().refused[&0], bench.counts().refusals()), (4, 4));
    assert_eq!(bench.events(), [(); 4].map(|()| ServerEvent::Refused(0)));
    assert_eq!(bench.state(), UpstreamState::Available);
}

#[test]
fn questions_are_answered_at_once_while_no_server_takes_them() {
    let mut bench = Bench::new(1);
    bench.fail();
    assert_eq!(bench.ask(1).len(), 0);
    assert_eq!((bench.answers(), bench.counts().sent), (vec![answer(1, None)], 0));
    let mut unresolved = Questions::new(TIMEOUT);
    unresolved.replace(directory(&[1]), bench.now);
    assert_eq!(unresolved.readiness(), Readiness::Unready);
    assert_eq!(unresolved.ask(digest(1), bench.now, TIME).len(), 0);
    assert_eq!(unresolved.take_answers(), [answer(1, None)]);
}

#[test]
fn two_questions_about_one_digest_have_an_answer_each() {
    let mut bench = Bench::new(1);
    let [first, second] = [bench.ask(1), bench.ask(1)];
    bench.reply_counts(&second[0], 2, 0);
    bench.reply_counts(&first[0], 1, 0);
    assert_eq!(bench.answers(), [answer(1, Some((2, 0))), answer(1, Some((1, 0)))]);
}

#[test]
fn servers_that_are_removed_are_not_waited_for() {
    let mut bench = Bench::new(2);
    let sent = bench.ask(1);
    bench.reply_counts(&sent[1], 3, 0);
    let lines = bench.questions.replace(directory(&[1, 7]), bench.now);
    assert_eq!(
        lines,
        [
            "Second opinions from 192.0.2.7:9 (anonymous) begin",
            "Second opinions from 192.0.2.0:9 (anonymous) end"
        ]
    );
    assert_eq!(bench.answers(), [partial(1, Some((3, 0)))]);
    bench.reply_counts(&sent[0], 9, 0);
    assert_eq!((bench.answers(), bench.state()), (vec![], UpstreamState::Available));
}

#[test]
fn another_account_is_used_for_questions_that_are_asked_later() {
    let mut bench = Bench::new(1);
    let sent = bench.ask(1);
    let mut with = |user: &str, key: &str| {
        let servers = vec![server(0, Signer::new(user, key))];
        bench.questions.replace(RemoteDirectory { servers, timeout: TIMEOUT }, bench.now)
    };
    let change = "Second opinions from 192.0.2.0:9: account changed from anonymous to bob";
    assert_eq!(with("bob", "c0de"), [change]);
    let change = "Second opinions from 192.0.2.0:9: the key of the account bob has changed";
    assert_eq!(with("bob", "beef"), [change]);
    assert!(with("bob", "beef").is_empty());
    bench.reply_counts(&sent[0], 1, 0);
    assert_eq!(bench.answers(), [answer(1, Some((1, 0)))]);
    assert!(text(&bench.ask(2)[0]).contains("\nUser: bob\n"));
}

#[test]
fn full_send_buffer_ends_a_question_without_a_judgement_on_the_server() {
    let mut bench = Bench::new(1);
    for number in 0..10 {
        let sent = bench.questions.ask(digest(number), bench.now, TIME);
        bench.questions.dispatched(&sent[0], DispatchOutcome::Blocked, bench.now);
        assert_eq!(bench.answers(), [answer(number, None)]);
        bench.after(TIMEOUT).poll();
    }
    assert_eq!((bench.state(), bench.counts().silent), (UpstreamState::Untried, 10));
}
