use super::*;

const PEER: ReplyTo = ReplyTo {
    peer: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
    source: None,
};

fn key(number: u32) -> Digest {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(bytes)
}

fn copy(thread: &[u8]) -> WaitingCopy {
    WaitingCopy { reply_to: PEER, thread: thread.into(), user: b"bob"[..].into() }
}

const NEAREST: Arrival = Arrival { hops: 1, is_account: false };
const KNOWN: IdStatus = IdStatus::Counted { outcome: Ok(()), goes_on: false };

fn check(ids: &mut ForwardIds, number: u32) -> IdStatus {
    ids.check(key(number), NEAREST, || copy(b"1024"))
}

/// Finishes a request in flight. Returns its copies.
fn finish(
    ids: &mut ForwardIds,
    number: u32,
    outcome: Result<(), Refusal>,
    may_go_on: bool,
) -> Vec<WaitingCopy> {
    let arrival = ids.best_arrival(&key(number)).unwrap();
    ids.finish(key(number), arrival, outcome, may_go_on)
}

fn count(ids: &mut ForwardIds, number: u32, arrival: Arrival) {
    ids.begin(key(number), arrival);
    finish(ids, number, Ok(()), true);
}

#[test]
fn counted_request_is_remembered_with_its_outcome_and_another_one_is_not() {
    let mut ids = ForwardIds::new(10);
    for number in 0..3 {
        assert_eq!(check(&mut ids, number), IdStatus::New);
        ids.begin(key(number), NEAREST);
    }
    let damaged = Err(Refusal::DamagedRecord);
    finish(&mut ids, 0, Ok(()), true);
    finish(&mut ids, 1, damaged, true);
    ids.give_up(key(2));
    assert_eq!(check(&mut ids, 0), KNOWN);
    assert_eq!(check(&mut ids, 1), IdStatus::Counted { outcome: damaged, goes_on: false });
    assert_eq!(check(&mut ids, 2), IdStatus::New);
}

#[test]
fn copies_of_a_request_in_flight_are_returned_once() {
    let mut ids = ForwardIds::new(10);
    ids.begin(key(1), NEAREST);
    assert_eq!(ids.check(key(1), NEAREST, || copy(b"7")), IdStatus::InFlight);
    assert_eq!(check(&mut ids, 2), IdStatus::New);
    assert_eq!(finish(&mut ids, 1, Ok(()), true), [copy(b"7")]);
    assert_eq!(ids.give_up(key(1)), []);
    assert_eq!((ids.copies, ids.copy_bytes, ids.in_flight.len()), (0, 0, 0));
}

#[test]
fn copies_are_limited_in_number_and_in_size() {
    let mut ids = ForwardIds::new(10);
    ids.begin(key(1), NEAREST);
    for _ in 0..MAX_COPIES {
        assert_eq!(check(&mut ids, 1), IdStatus::InFlight);
    }
    assert_eq!(check(&mut ids, 1), IdStatus::TooMany);
    assert_eq!(ids.give_up(key(1)).len(), MAX_COPIES);
    ids.begin(key(1), NEAREST);
    let long = vec![b'x'; MAX_COPY_BYTES / 2];
    assert_eq!(ids.check(key(1), NEAREST, || copy(&long)), IdStatus::InFlight);
    assert_eq!(ids.check(key(1), NEAREST, || copy(&long)), IdStatus::TooMany);
    assert_eq!((ids.give_up_all(), ids.copies, ids.copy_bytes), (1, 0, 0));
    assert_eq!(check(&mut ids, 1), IdStatus::New);
}

#[test]
fn copy_with_fewer_hops_is_passed_on_if_too_many_have_kept_an_earlier_one_from_it() {
    let mut ids = ForwardIds::new(10);
    // The hops of the first copy, then those of later ones, and which of these are passed on.
    let cases: [(u8, &[u8], &[u8]); 5] = [
        (1, &[1, 9, 16], &[]),
        (4, &[3, 1], &[]),
        (255, &[16, 15, 9, 8, 1], &[15, 8]),
        (16, &[1, 1, 8], &[1]),
        (15, &[14, 8, 7], &[8]),
    ];
    for (number, (first, later, passed_on)) in (0..).zip(cases) {
        count(&mut ids, number, Arrival { hops: first, ..NEAREST });
        let goes_on = |hops: &u8| {
            let status = ids.check(key(number), Arrival { hops: *hops, ..NEAREST }, || copy(b"7"));
            status == IdStatus::Counted { outcome: Ok(()), goes_on: true }
        };
        assert_eq!(later.iter().copied().filter(goes_on).collect::<Vec<_>>(), passed_on, "{first}");
    }
}

#[test]
fn request_in_flight_has_the_fewest_hops_of_its_copies() {
    let mut ids = ForwardIds::new(10);
    ids.begin(key(1), Arrival { hops: 255, ..NEAREST });
    for hops in [3, 7] {
        ids.check(key(1), Arrival { hops, ..NEAREST }, || copy(b"7"));
    }
    assert_eq!(ids.best_arrival(&key(1)).map(|arrival| arrival.hops), Some(3));
    finish(&mut ids, 1, Ok(()), true);
    assert_eq!(check(&mut ids, 1), KNOWN, "it has been passed on");
    ids.begin(key(2), Arrival { hops: 255, ..NEAREST });
    finish(&mut ids, 2, Err(Refusal::Unavailable), false);
    let unavailable = IdStatus::Counted { outcome: Err(Refusal::Unavailable), goes_on: false };
    assert_eq!(check(&mut ids, 2), unavailable, "what is in doubt is not passed on");
}

#[test]
fn anonymous_senders_do_not_displace_the_requests_of_accounts() {
    const ACCOUNT: Arrival = Arrival { hops: 1, is_account: true };
    let mut ids = ForwardIds::new(10);
    count(&mut ids, 0, ACCOUNT);
    // An anonymous sender has been faster.
    count(&mut ids, 1, NEAREST);
    assert_eq!(ids.check(key(1), ACCOUNT, || copy(b"7")), KNOWN);
    ids.begin(key(2), NEAREST);
    assert_eq!(ids.check(key(2), ACCOUNT, || copy(b"7")), IdStatus::InFlight);
    finish(&mut ids, 2, Ok(()), true);
    count(&mut ids, 3, NEAREST);
    (100..200).for_each(|number| count(&mut ids, number, NEAREST));
    assert_eq!([0, 1, 2].map(|number| check(&mut ids, number)), [KNOWN; 3]);
    assert_eq!(check(&mut ids, 3), IdStatus::New);
}

#[test]
fn memory_is_bounded_and_the_latest_requests_are_remembered() {
    let mut ids = ForwardIds::new(100);
    let capacities = |table: &CountedRequests| (table.younger.capacity(), table.older.capacity());
    assert_eq!((capacities(&ids.anonymous), capacities(&ids.accounts)), ((0, 0), (0, 0)));
    let mut expected = None;
    for number in 0..1000 {
        assert_eq!(check(&mut ids, number), IdStatus::New);
        count(&mut ids, number, NEAREST);
        for earlier in number.saturating_sub(99)..=number {
            assert_eq!(check(&mut ids, earlier), KNOWN);
        }
        let now = capacities(&ids.anonymous);
        assert_eq!(*expected.get_or_insert(now), now);
        assert!(ids.anonymous.younger.len() <= 100 && ids.anonymous.older.len() <= 100);
    }
    assert_eq!(check(&mut ids, 1), IdStatus::New);
    assert_eq!(capacities(&ids.accounts), (0, 0));
}
