//! Locks and limits that concurrent clients meet, as only this server handles them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::call;
use crate::engines::mysql::{COLUMNS, MySql};
use crate::engines::{Store, digests, done};
use crate::harness::{DIGEST, Home, MariaDb, Server, StopFlag, eventually};

#[test]
fn statements_fit_max_allowed_packet() {
    let store = MySql::with_table_in(Arc::new(MariaDb::with("--net-buffer-length=1024")));
    let digests = digests(60);
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    for (round, size) in [1024, 4096, 16_384].into_iter().enumerate() {
        // Takes effect for new connections.
        store.sql(&format!("SET GLOBAL max_allowed_packet = {size}"));
        let server = store.home("").start();
        assert_eq!(server.request("report", &digests).code(), 200, "{size}");
        assert_eq!(done(&server, "check", digests[0]).counts(), (i64::try_from(round).unwrap() + 1, 0));
        assert!(server.stop().success());
    }
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests WHERE r_count = 3"), "60\n");
}

#[test]
fn report_of_locked_row_is_refused_in_time_and_counted_after_release() {
    let (store, _, server) = MySql::served("");
    let other = "b".repeat(40);
    done(&server, "report", DIGEST);
    done(&server, "report", &other);
    let refusal = "Code: 500\nDiag: Internal Server Error: Database temporarily unavailable.\nPV: 2.1\nThread: 3000\n\n";

    let held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = '{DIGEST}' FOR UPDATE",
        store.name
    ));
    let start = Instant::now();
    let reply = server.request("report", &[DIGEST]);
    assert_eq!(String::from_utf8_lossy(&reply.0), refusal);
    let waited = start.elapsed();
    // MariaDB itself would wait for 50 s.
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    // Checks and reports of other rows do not wait.
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    done(&server, "report", &other);
    assert_eq!(done(&server, "check", &other).counts(), (2, 0));
    drop(held);

    eventually("the row to be free", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    // The refused report may have been counted: its outcome is unknown.
    let (count, _) = done(&server, "check", DIGEST).counts();
    assert!((2..=3).contains(&count), "{count}");
}

#[test]
fn read_only_privileges_allow_checks() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    done(&home.start(), "report", DIGEST);
    let name = &store.name;
    store.sql(&format!("REVOKE ALL ON {name}.* FROM {name}; GRANT SELECT ON {name}.digests TO {name}"));
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    eventually("a line in the log", || home.log().contains("denied").then_some(()));
    // Existing connections see new privileges on a table at once, but never those on a whole database.
    for (count, place) in [(2, format!("{name}.digests")), (3, format!("{name}.*"))] {
        store.sql(&format!("GRANT INSERT, UPDATE ON {place} TO {name}"));
        eventually("the privilege to write", || {
            (server.request("report", &[DIGEST]).code() == 200).then_some(())
        });
        assert_eq!(done(&server, "check", DIGEST).counts(), (count, 0));
        // Existing connections keep their privileges on a whole database.
        store.sql(&format!("REVOKE INSERT, UPDATE ON {place} FROM {name}; KILL USER {name}"));
        eventually("the privilege to be revoked", || {
            (server.request("whitelist", &[DIGEST]).code() == 500).then_some(())
        });
    }
}

#[test]
fn locked_row_does_not_delay_other_rows() {
    let (store, _, server) = MySql::served("");
    let others = digests(20);
    done(&server, "report", DIGEST);
    let _held = store.mariadb.hold(&format!(
        "USE {}; BEGIN; SELECT r_count FROM digests WHERE digest = '{DIGEST}' FOR UPDATE",
        store.name
    ));
    let mut all: Vec<&str> = others.iter().map(String::as_str).collect();
    all.push(DIGEST);
    // The statement for all these rows hangs, and the server cannot tell which row is locked.
    assert_eq!(server.request("report", &all).code(), 500);
    // It retries the rows in smaller statements until it has found the locked one.
    eventually("the other rows to be counted", || {
        server.request("report", &all);
        let counted = |digest: &String| done(&server, "check", digest).counts().0 > 0;
        others.iter().all(counted).then_some(())
    });
    let before: Vec<i64> = others.iter().map(|digest| done(&server, "check", digest).counts().0).collect();
    for _ in 0..20 {
        assert_eq!(server.request("report", &all).code(), 500);
    }
    for (digest, before) in others.iter().zip(before) {
        assert_eq!(done(&server, "check", digest).counts().0, before + 20, "{digest}");
    }
}

/// Requests an operation for each digest in turn and returns the codes of the replies.
fn codes(server: &Server, operation: &str, digests: &[String]) -> Vec<i64> {
    digests.iter().map(|digest| server.request(operation, &[digest]).code()).collect()
}

#[test]
fn locked_table_does_not_delay_checks() {
    let (store, _, server) = MySql::served("");
    let digests = digests(40);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 200);
    let held = store.mariadb.hold(&format!("USE {}; LOCK TABLES digests READ", store.name));
    // Three reports time out. After that one report per second is tried, and all other reports are refused immediately.
    assert_eq!(codes(&server, "report", &digests[..3]), [500; 3]);
    let start = Instant::now();
    assert_eq!(codes(&server, "report", &digests), [500; 40]);
    // If each report waited, they would take 36 s.
    assert!(start.elapsed() < Duration::from_secs(18), "each report waits: {:?}", start.elapsed());
    assert_eq!(codes(&server, "check", &digests), [200; 40]);
    drop(held);
    for digest in &digests {
        eventually("counting again", || (server.request("report", &[digest]).code() == 200).then_some(()));
    }
}

#[test]
fn limit_of_connections_is_respected() {
    let store = MySql::new();
    let name = &store.name;
    store.mariadb.sql(&format!("ALTER USER {name} WITH MAX_USER_CONNECTIONS 2"));
    let home = store.home("DBConnections = 8\nCleanupAge = 0\n");
    let server = home.start();
    let digests = digests(4);
    thread::scope(|scope| {
        for caller in 0..8 {
            let (server, digests) = (&server, &digests);
            scope.spawn(move || call(server, digests, 50, caller));
        }
    });
    let counts: i64 = digests.iter().map(|digest| done(&server, "check", digest).counts().0).sum();
    // Half of the rounds are whitelistings.
    assert_eq!(counts, 8 * 25 * 4);
    assert!(!home.log().contains(" is unavailable: "), "{}", home.log());
}

#[test]
fn lowered_max_allowed_packet_is_respected() {
    let store = MySql::within(Arc::new(MariaDb::start())).table(COLUMNS);
    let home = store.home("");
    let server = home.start();
    let digests = digests(120);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 200);
    store.mariadb.sql(&format!("SET GLOBAL max_allowed_packet = 2048; KILL USER {}", store.name));
    eventually("smaller statements", || (server.request("report", &all).code() == 200).then_some(()));
    assert!(home.log().matches(" is unavailable: ").count() <= 1, "{}", home.log());
}

#[test]
fn address_of_read_only_server_is_resolved_again() {
    let (first, second) = (MariaDb::start(), MariaDb::start());
    let link = second.socket().with_file_name("current");
    std::os::unix::fs::symlink(first.socket(), &link).unwrap();
    let dsn = format!("{},pyzor,secret,pyzor,digests", link.display());
    let server = Home::open().config(&format!("Engine = mysql\nDigestDB = {dsn}\n")).start();
    done(&server, "report", DIGEST);
    second.sql(&format!("USE pyzor; CREATE TABLE digests ({})", COLUMNS));
    first.sql("SET GLOBAL read_only = 1");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(second.socket(), &link).unwrap();
    eventually("the other server", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    assert_eq!(second.sql("SELECT r_count FROM pyzor.digests"), "1\n");
}

#[test]
fn hung_server_is_unavailable_even_if_its_table_is_locked() {
    let mut mariadb = MariaDb::start();
    mariadb.sql(&format!("USE pyzor; CREATE TABLE digests ({COLUMNS})"));
    let dsn = format!("127.0.0.1:{},pyzor,secret,pyzor,digests", mariadb.port());
    let home = Home::open().config(&format!("Engine = mysql\nDigestDB = {dsn}\nCleanupAge = 0\n"));
    let server = home.start();
    let _held = mariadb.hold("USE pyzor; LOCK TABLES digests READ");
    assert_eq!(codes(&server, "report", &digests(3)), [500; 3]);
    // Reports refused without asking MariaDB must not make it look available, however many there are.
    let over = StopFlag::default();
    thread::scope(|scope| {
        let _guard = over.set_on_drop();
        scope.spawn(|| {
            let socket = server.socket();
            let report = format!("Op: report\nOp-Digest: {DIGEST}\nPV: 2.1\nThread: 3000\n\n");
            while !over.is_set() {
                socket.send(report.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        eventually("refusals", || home.log().contains("the table may be locked").then_some(()));
        mariadb.service().signal(Signal::SIGSTOP);
        eventually("the server to be unavailable", || home.log().contains(" is unavailable: ").then_some(()));
    });
    mariadb.service().signal(Signal::SIGCONT);
    eventually("its return", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
}

#[test]
fn one_connection_is_enough_for_requests_and_expiry() {
    let store = MySql::new();
    let name = &store.name;
    store.sql("INSERT INTO digests (digest, r_count, r_updated) SELECT SHA1(seq), 1, NOW() - INTERVAL 199 DAY FROM seq_1_to_3000");
    store.mariadb.sql(&format!("ALTER USER {name} WITH MAX_USER_CONNECTIONS 1"));
    let home = store.home("");
    let server = home.start();
    let digests = digests(4);
    thread::scope(|scope| {
        for caller in 0..4 {
            let (server, digests) = (&server, &digests);
            scope.spawn(move || call(server, digests, 50, caller));
        }
    });
    eventually("expiry", || home.log().contains("Expiry: removed 3000 of 300").then_some(()));
    assert_eq!(store.sql("SELECT SUM(r_count), SUM(wl_count) FROM digests"), "400\t400\n");
    assert!(!home.log().contains(" is unavailable: "), "{}", home.log());
}

/// Runs `work` while callers report digests into a slow table, so that requests always wait for a connection.
fn under_full_load<T>(store: &MySql, server: &Server, work: impl FnOnce() -> T) -> T {
    store.sql("CREATE TRIGGER slow BEFORE INSERT ON digests FOR EACH ROW SET @slept = SLEEP(0.005)");
    let over = StopFlag::default();
    thread::scope(|scope| {
        let _guard = over.set_on_drop();
        for digest in digests(16) {
            let over = &over;
            scope.spawn(move || {
                while !over.is_set() {
                    server.request("report", &[&digest]);
                }
            });
        }
        work()
    })
}

#[test]
fn table_is_inspected_while_its_only_connection_is_busy() {
    let store = MySql::new();
    store.mariadb.sql(&format!("ALTER USER {} WITH MAX_USER_CONNECTIONS 1", store.name));
    let home = store.home("CleanupAge = 0\n");
    let server = home.start();
    done(&server, "report", DIGEST);
    under_full_load(&store, &server, || {
        store.sql("ALTER TABLE digests DROP PRIMARY KEY, ADD KEY (digest)");
        eventually("an inspection", || home.log().contains("several rows for one digest").then_some(()));
    });
}

#[test]
fn raised_limit_of_connections_is_noticed_under_full_load() {
    let store = MySql::new();
    let name = &store.name;
    let limited = |limit: u32| {
        let statement = format!("ALTER USER {name} WITH MAX_USER_CONNECTIONS {limit}; FLUSH PRIVILEGES");
        store.mariadb.sql(&statement);
    };
    limited(1);
    let server = store.home("CleanupAge = 0\n").start();
    let connections = format!("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{name}'");
    under_full_load(&store, &server, || {
        // Meanwhile the server finds that only one connection is allowed.
        for digest in digests(20) {
            server.request("report", &[&digest]);
        }
        limited(100);
        eventually("more connections", || {
            let there: u32 = store.mariadb.sql(&connections).trim().parse().unwrap();
            (there > 1).then_some(())
        });
    });
}
