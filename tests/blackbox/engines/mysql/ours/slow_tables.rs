//! Slow tables, and rows that other clients lock.

use std::thread;
use std::time::{Duration, Instant};

use crate::engines::mysql::MySql;
use crate::engines::{Store, digests, done};
use crate::harness::{Caller, DIGEST, StopFlag, eventually};

/// Makes each row of a statement of this kind take `milliseconds`.
fn slow(store: &MySql, kind: &str, milliseconds: u32) {
    let seconds = f64::from(milliseconds) / 1000.0;
    store.sql(&format!(
        "CREATE TRIGGER slow_{kind} BEFORE {kind} ON digests FOR EACH ROW SET @slept = SLEEP({seconds})"
    ));
}

/// Makes each INSERT statement take `milliseconds`, independent of its rows.
fn slow_statements(store: &MySql, milliseconds: u32) {
    let seconds = f64::from(milliseconds) / 1000.0;
    store.sql(&format!(
        "CREATE TRIGGER slow_statements BEFORE INSERT ON digests FOR EACH ROW SET @slept = IF(@at <=> NOW(6), 0, \
         SLEEP({seconds})), @at = NOW(6)"
    ));
}

/// Reports `rate` digests a second and returns how many were acknowledged.
fn acknowledged(caller: &Caller, digests: &[String], rate: u32) -> u32 {
    let (over, start) = (StopFlag::default(), Instant::now());
    thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut acknowledged = 0;
            loop {
                match caller.receive(Duration::from_secs(2)) {
                    Some(reply) => acknowledged += u32::from(reply.code() == 200),
                    None if over.is_set() => break acknowledged,
                    None => {}
                }
            }
        });
        let guard = over.set_on_drop();
        for (number, digest) in (0..).zip(digests) {
            caller.send("report", &[digest], 3000);
            let next = start + Duration::from_secs(1) * (number + 1) / rate;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        drop(guard);
        counter.join().unwrap()
    })
}

#[test]
fn overload_does_not_stop_counting_in_a_slow_table() {
    const OFFERED: u32 = 12_000;
    let (store, home, server) = MySql::served("CleanupAge = 0\n");
    done(&server, "report", DIGEST);
    slow(&store, "INSERT", 4);
    // Four connections can count 1000 rows a second; 1200 are reported.
    let acknowledged = acknowledged(&Caller::to(server.port()), &digests(OFFERED), 1200);
    println!("{acknowledged} of {OFFERED} acknowledged");
    assert!(acknowledged > OFFERED / 2, "{acknowledged} of {OFFERED}: {}", home.log());
    let stored: u32 = store.sql("SELECT COUNT(*) FROM digests").trim().parse().unwrap();
    assert!(stored > acknowledged, "{stored} stored, {acknowledged} acknowledged");
}

#[test]
fn slow_statements_count_many_rows_each() {
    const OFFERED: u32 = 4000;
    for milliseconds in [300, 500] {
        let (store, home, server) = MySql::served("CleanupAge = 0\n");
        slow_statements(&store, milliseconds);
        let acknowledged = acknowledged(&Caller::to(server.port()), &digests(OFFERED), 500);
        println!("{milliseconds} ms: {acknowledged} of {OFFERED} acknowledged");
        assert!(acknowledged > OFFERED / 2, "{milliseconds} ms: {acknowledged} of {OFFERED}: {}", home.log());
        let stored: u32 = store.sql("SELECT SUM(r_count) FROM digests").trim().parse().unwrap();
        // Reports refused for lack of time are not counted.
        assert!(
            stored < acknowledged + (OFFERED - acknowledged) / 2 + 200,
            "{stored} stored, {acknowledged}"
        );
    }
}

#[test]
fn throughput_recovers_after_locked_rows_are_released() {
    const OFFERED: u32 = 6000;
    let (store, home, server) = MySql::served("CleanupAge = 0\n");
    slow_statements(&store, 80);
    let caller = Caller::to(server.port());
    let digests = digests(OFFERED);
    acknowledged(&caller, &digests[..500], 1000);
    {
        let _held = store.mariadb.hold(&format!(
            "USE {}; BEGIN; SELECT COUNT(*) FROM digests WHERE digest IN ('{}') FOR UPDATE",
            store.name,
            digests[100..110].join("', '"),
        ));
        acknowledged(&caller, &digests[..2000], 1000);
    }
    for digest in &digests[100..110] {
        eventually("counting again", || (server.request("report", &[digest]).code() == 200).then_some(()));
    }
    let acknowledged = acknowledged(&caller, &digests, 1000);
    println!("{acknowledged} of {OFFERED} acknowledged");
    assert!(acknowledged > OFFERED / 8 * 7, "{acknowledged} of {OFFERED}: {}", home.log());
}

#[test]
fn expiry_finishes_in_a_slow_table() {
    let store = MySql::new();
    let home = store.home("");
    store.sql(
        "INSERT INTO digests (digest, r_count, r_updated) SELECT SHA1(seq), 1, NOW() - INTERVAL 199 DAY FROM seq_1_to_300",
    );
    slow(&store, "DELETE", 20);
    let _server = home.start();
    eventually("expiry", || store.sql("SELECT COUNT(*) FROM digests").starts_with("0\n").then_some(()));
    assert!(!home.log().contains("cannot expire"), "{}", home.log());
}

#[test]
fn expiry_skips_locked_rows() {
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
    eventually("expiry", || home.log().contains("Expiry: removed 89 of 90 records").then_some(()));
    assert!(home.log().contains("; 1 locked by other clients"), "{}", home.log());
    assert_eq!(store.sql("SELECT digest = SHA1(45) FROM digests"), "1\n");
}

#[test]
fn locked_row_causes_no_refusals_of_other_rows() {
    let (store, _, server) = MySql::served("CleanupAge = 0\n");
    done(&server, "report", DIGEST);
    let _held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = '{DIGEST}' FOR UPDATE",
        store.name
    ));
    // After this timeout the server knows which row hangs.
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    let over = StopFlag::default();
    thread::scope(|scope| {
        let _guard = over.set_on_drop();
        scope.spawn(|| {
            while !over.is_set() {
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

#[test]
fn locked_row_on_the_only_connection_does_not_make_the_server_unavailable() {
    let store = MySql::new();
    store.mariadb.sql(&format!("ALTER USER {} WITH MAX_USER_CONNECTIONS 1", store.name));
    let home = store.home("CleanupAge = 0\n");
    let server = home.start();
    done(&server, "report", DIGEST);
    let held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = '{DIGEST}' FOR UPDATE",
        store.name
    ));
    for digest in digests(20) {
        assert_eq!(server.request("report", &[DIGEST]).code(), 500);
        done(&server, "report", &digest);
    }
    assert!(!home.log().contains(" is unavailable: "), "{}", home.log());
    drop(held);
    eventually("the row to be free", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    // MariaDB rolled back the statements that it ended, so none of the refused reports was counted.
    assert_eq!(done(&server, "check", DIGEST).counts(), (2, 0));
}

#[test]
fn expiry_of_locked_rows_on_the_only_connection_refuses_no_requests() {
    let store = MySql::new();
    store.mariadb.sql(&format!("ALTER USER {} WITH MAX_USER_CONNECTIONS 1", store.name));
    store.sql(
        "INSERT INTO digests (digest, r_count, r_updated) SELECT SHA1(seq), 1, NOW() - INTERVAL 199 DAY FROM seq_1_to_90",
    );
    let _held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT COUNT(*) FROM digests WHERE digest IN (SHA1(45), SHA1(46)) FOR UPDATE",
        store.name
    ));
    let home = store.home("");
    let server = home.start();
    eventually("expiry", || {
        done(&server, "report", DIGEST);
        home.log().contains("Expiry: removed 88 of 9").then_some(())
    });
    assert!(!home.log().contains(" is unavailable: "), "{}", home.log());
}
