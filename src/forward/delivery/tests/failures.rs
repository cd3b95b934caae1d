//! Tests of servers that fail to count, and reply with 500.

use super::*;

#[test]
fn failed_requests_are_sent_again_with_retries() {
    let mut bench = Bench::with_units(3, 1);
    let first = bench.send();
    for pause in [1, 2] {
        bench.reply(&first[0], 500);
        assert_eq!(bench.delivery.counts().refusals(), 0);
        assert_eq!(bench.wait(), Some(Duration::from_secs(pause)));
        assert_eq!(bench.after(Duration::from_secs(pause)).send(), first);
    }
    bench.reply(&first[0], 200);
    assert_eq!((bench.counts(), bench.delivery.is_idle()), ((1, 2, 10, 0), true));
    assert_eq!((bench.delivery.take_events(), bench.delivery.state()), (Vec::new(), ForwardState::Available));
}

#[test]
fn requests_that_fail_to_the_end_are_refused_and_never_silent() {
    for (retries, pauses) in [(0, &[][..]), (2, &[1, 2])] {
        let mut bench = Bench::with_units(retries, 5);
        let first = bench.exchange(500);
        for pause in pauses {
            assert_eq!(bench.after(Duration::from_secs(*pause)).exchange(500), first);
        }
        assert_eq!(
            (bench.counts(), bench.delivery.counts().refused[&500]),
            ((5, 5 * u64::from(retries), 0, 0), 50)
        );
        assert_eq!((bench.delivery.is_idle(), bench.delivery.take_events().len()), (true, 5));
        assert_eq!(bench.after(Duration::from_secs(60)).send(), [""; 0]);
        assert_eq!(bench.delivery.state(), ForwardState::Available);
    }
}

#[test]
fn late_failure_of_a_request_that_is_repeated_after_the_outage_is_not_its_end() {
    let mut bench = Bench::with_units(1, 1);
    let first = bench.send();
    bench.fail();
    bench.reply(&first[0], 500);
    assert_eq!(bench.send(), first);
    bench.reply(&first[0], 200);
    assert_eq!((bench.counts(), bench.delivery.counts().refusals()), ((1, 1, 10, 0), 0));
}

#[test]
fn requests_that_are_sent_again_are_signed_by_the_account_in_use_with_the_same_id() {
    let mut bench = Bench::with_units(2, 2);
    let first = bench.send();
    bench.reply(&first[1], 401);
    bench.fail();
    let bob = Signer::new("bob", "227bfb58efaba7c582d9dcb66ab2063d38df2923");
    assert!(bench.delivery.set_signer(bob).is_some());
    bench.after(PING_PAUSE).pong();
    let again = bench.send();
    assert_eq!((again.len(), field(&again[0], "User")), (1, "bob"));
    assert_eq!(field(&again[0], "Forward-Id"), field(&first[0], "Forward-Id"));
    assert_ne!(field(&again[0], "Thread"), field(&first[0], "Thread"));
    assert_eq!(bench.after(Duration::from_secs(1)).send(), again, "the same bytes");
    bench.reply(&again[0], 200);
    assert_eq!(bench.counts(), (2, 2, 10, 0));
    // The account that was refused is named.
    assert_eq!(bench.delivery.last_refusal(bench.now), Some((401, &Signer::anonymous())));
}
