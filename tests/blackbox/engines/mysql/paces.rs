//! Tables in which each row takes its time, and rows that others hold.

use std::thread;
use std::time::{Duration, Instant};

use super::MySql;
use crate::engines::{Store, digests, done};
use crate::harness::{DIGEST, eventually, ours_only};
use crate::support::{Caller, Over};

/// Makes each row of a statement of this kind take so many milliseconds.
fn slow(store: &MySql, kind: &str, milliseconds: u32) {
    let seconds = f64::from(milliseconds) / 1000.0;
    store.sql(&format!(
        "CREATE TRIGGER slow_{kind} BEFORE {kind} ON digests FOR EACH ROW SET @slept = SLEEP({seconds})"
    ));
}

#[test]
fn more_reports_than_a_slow_table_can_count_do_not_keep_it_from_counting() {
    const OFFERED: u32 = 12_000;
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    let server = home.start();
    done(&server, "report", DIGEST);
    slow(&store, "INSERT", 4);
    // On four connections there is time for 1000 rows a second, and 1200 are asked for.
    let caller = Caller::to(server.port());
    let (over, start) = (Over::default(), Instant::now());
    let acknowledged = thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut acknowledged = 0;
            loop {
                match caller.receive(Duration::from_secs(2)) {
                    Some(reply) => acknowledged += u32::from(reply.code() == 200),
                    None if over.is_over() => break acknowledged,
                    None => {}
                }
            }
        });
        let guard = over.guard();
        for (number, digest) in (0..).zip(digests(OFFERED)) {
            caller.send("report", &[&digest], 3000);
            let next = start + Duration::from_secs(1) * (number + 1) / 1200;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        drop(guard);
        counter.join().unwrap()
    });
    println!("{acknowledged} of {OFFERED} acknowledged");
    assert!(acknowledged > OFFERED / 2, "{acknowledged} of {OFFERED}: {}", home.log());
    let stored: u32 = store.sql("SELECT COUNT(*) FROM digests").trim().parse().unwrap();
    assert!(stored > acknowledged, "{stored} stored, {acknowledged} acknowledged");
}

#[test]
fn expiry_gets_on_where_each_row_takes_its_time() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    store.sql(
        "INSERT INTO digests (digest, r_count, r_updated) SELECT SHA1(seq), 1, NOW() - INTERVAL 199 DAY FROM seq_1_to_300",
    );
    slow(&store, "DELETE", 20);
    let _server = home.start();
    eventually("expiry", || store.sql("SELECT COUNT(*) FROM digests").starts_with("0\n").then_some(()));
    assert!(!home.log().contains("was given up"), "{}", home.log());
}

#[test]
fn expiry_passes_by_a_row_that_another_has_locked() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    store.sql(
        "INSERT INTO digests (digest, r_count, r_updated) SELECT SHA1(seq), 1, NOW() - INTERVAL 199 DAY FROM seq_1_to_90",
    );
    let _held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = SHA1(45) FOR UPDATE",
        store.name
    ));
    let _server = home.start();
    eventually("expiry", || home.log().contains("Expired 89 of 90 records").then_some(()));
    assert!(home.log().contains("; 1 were locked by others"), "{}", home.log());
    assert_eq!(store.sql("SELECT digest = SHA1(45) FROM digests"), "1\n");
}

#[test]
fn reports_beside_a_locked_row_are_never_refused() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let server = store.home("CleanupAge = 0\n").start();
    done(&server, "report", DIGEST);
    let _held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = '{DIGEST}' FOR UPDATE",
        store.name
    ));
    // From then on it is known which row hangs.
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    let over = Over::default();
    thread::scope(|scope| {
        let _guard = over.guard();
        scope.spawn(|| {
            while !over.is_over() {
                assert_eq!(server.request("report", &[DIGEST]).code(), 500);
            }
        });
        let callers = digests(4).into_iter().map(|digest| {
            let server = &server;
            scope.spawn(move || (0..1000).for_each(|_| drop(done(server, "report", &digest))))
        });
        callers.collect::<Vec<_>>().into_iter().for_each(|caller| caller.join().unwrap());
    });
    assert_eq!(store.sql(&format!("SELECT SUM(r_count) FROM digests WHERE digest <> '{DIGEST}'")), "4000\n");
}
