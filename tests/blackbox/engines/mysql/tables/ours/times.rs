//! Times, and expiry.

use std::sync::Arc;

use crate::engines::mysql::{COLUMNS, MySql};
use crate::engines::{DAY, LATER, Store, THEN, digests, done};
use crate::harness::{DIGEST, MariaDb, eventually, finish, unix_time};

#[test]
fn first_change_leaves_the_other_tally_without_times() {
    let (store, _, server) = MySql::served("");
    let other = "b".repeat(40);
    done(&server, "report", DIGEST);
    done(&server, "whitelist", &other);
    let columns = |tally: &str| format!("{tally}_count, {tally}_entered, {tally}_updated");
    assert_eq!(store.row(&columns("wl"), DIGEST), "0\tNULL\tNULL");
    assert_eq!(store.row(&columns("r"), &other), "0\tNULL\tNULL");
    // A second report leaves them unset, too.
    done(&server, "report", DIGEST);
    assert_eq!(store.row(&columns("wl"), DIGEST), "0\tNULL\tNULL");
}

#[test]
fn first_report_of_a_whitelisted_digest_sets_its_report_times() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    // The Python server has stored the time of the whitelisting as a report time, too.
    let time = format!("FROM_UNIXTIME({THEN})");
    store.sql(&format!(
        "INSERT INTO digests VALUES ('{DIGEST}', 0, 1, {time}, {time}, {time}, FROM_UNIXTIME({LATER}))"
    ));
    let server = home.start();
    assert_eq!(done(&server, "info", DIGEST).times(), [0, 0, THEN, LATER]);
    let start = unix_time();
    done(&server, "report", DIGEST);
    let [entered, updated, wl_entered, wl_updated] = done(&server, "info", DIGEST).times();
    assert!(start <= entered && entered == updated && updated <= unix_time());
    assert_eq!((wl_entered, wl_updated), (THEN, LATER));
}

#[test]
fn times_do_not_depend_on_time_zones() {
    let store = MySql::with_table_in(Arc::new(MariaDb::with("--default-time-zone=+05:00")));
    for (of_database, of_server) in
        [("+05:00", "UTC"), ("+05:00", "America/New_York"), ("-03:30", "UTC"), ("+13:00", "Asia/Kolkata")]
    {
        // Takes effect for new connections.
        store.sql(&format!("DELETE FROM digests; SET GLOBAL time_zone = '{of_database}'"));
        let now = unix_time();
        let digests = digests(3);
        let age = 7200;
        for (digest, age) in digests.iter().zip([age - 1800, age + 1800]) {
            let time = format!("FROM_UNIXTIME({})", now - age);
            store.sql(&format!(
                "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) VALUES ('{digest}', 1, 0, \
                 {time}, {time})"
            ));
        }
        let home = store.home(&format!("CleanupAge = {age}\n")).environment("TZ", of_server);
        let server = home.start();
        let context = format!("{of_database} and {of_server}");
        eventually("expiry", || (done(&server, "check", &digests[1]).counts() == (0, 0)).then_some(()));
        let planted = now - age + 1800;
        assert_eq!(done(&server, "info", &digests[0]).times(), [planted, planted, 0, 0], "{context}");
        done(&server, "report", &digests[0]);
        done(&server, "report", &digests[2]);
        let [entered, updated, ..] = done(&server, "info", &digests[2]).times();
        assert!(now <= entered && entered == updated && updated <= unix_time(), "{context}: {entered}");
        let [entered, updated, ..] = done(&server, "info", &digests[0]).times();
        assert!(entered == planted && (now..=unix_time()).contains(&updated), "{context}: {updated}");
        // In the table itself they are local times of the database.
        let difference = store.row("ABS(TIMESTAMPDIFF(SECOND, r_updated, NOW())) < 60", &digests[2]);
        assert_eq!(difference, "1", "{context}");
    }
}

#[test]
fn records_with_times_of_one_tally_expire_by_them() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 864000\n");
    let digests = digests(4);
    let (old, recent) = (unix_time() - 11 * DAY, unix_time() - 9 * DAY);
    for (digest, tally, time) in [
        (&digests[0], "r", old),
        (&digests[1], "wl", old),
        (&digests[2], "r", recent),
        (&digests[3], "wl", recent),
    ] {
        store.sql(&format!(
            "INSERT INTO digests (digest, r_count, wl_count, {tally}_entered, {tally}_updated) VALUES ('{digest}', 1, \
             1, FROM_UNIXTIME({time}), FROM_UNIXTIME({time}))"
        ));
    }
    let server = home.start();
    for digest in &digests[..2] {
        eventually("expiry", || (done(&server, "check", digest).counts() == (0, 0)).then_some(()));
    }
    assert!(server.stop().success());
    let left = store.sql("SELECT digest FROM digests ORDER BY digest");
    assert_eq!(left, format!("{}\n{}\n", digests[2], digests[3]));
}

#[test]
fn record_reported_during_expiry_keeps_the_new_report() {
    let store = MySql::new();
    let digest = digests(1).remove(0);
    let old = unix_time() - 11 * DAY;
    for _ in 0..5 {
        store.sql(&format!(
            "DELETE FROM digests; INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) VALUES \
             ('{digest}', 7, 0, FROM_UNIXTIME({old}), FROM_UNIXTIME({old}))"
        ));
        let server = store.home("CleanupAge = 864000\n").start();
        done(&server, "report", &digest);
        assert!(server.stop().success());
        // Either it had expired before the report (1), or the report kept it from expiring (8).
        let count = store.row("r_count", &digest);
        assert!(["1", "8"].contains(&count.as_str()), "{count:?}");
    }
}

#[test]
fn sql_modes_change_neither_reading_nor_expiry() {
    for (mode, columns) in [
        ("EMPTY_STRING_IS_NULL", COLUMNS.to_owned()),
        ("PAD_CHAR_TO_FULL_LENGTH", COLUMNS.replace("char(40)", "char(64)")),
        (
            "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,NO_ZERO_IN_DATE,STRICT_ALL_TABLES",
            COLUMNS.to_owned(),
        ),
        ("ORACLE", COLUMNS.to_owned()),
    ] {
        let mariadb = Arc::new(MariaDb::with(&format!("--sql-mode={mode}")));
        let store = MySql::within(mariadb).table(&columns);
        store.sql(
            "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT SHA1(seq), 1, 0, NOW() - \
             INTERVAL 200 DAY, NOW() - INTERVAL 199 DAY FROM seq_1_to_3000",
        );
        let server = store.home("").start();
        eventually(mode, || store.sql("SELECT COUNT(*) FROM digests").starts_with('0').then_some(()));
        done(&server, "report", DIGEST);
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "check", DIGEST).counts(), (2, 0), "{mode}");
    }
}

#[test]
fn all_expired_records_are_deleted_in_every_collation() {
    for shape in [
        format!("({COLUMNS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        format!("({COLUMNS}) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
        format!("({})", COLUMNS.replace("char(40)", "varbinary(60)")),
    ] {
        let store = MySql::bare().shaped(&shape);
        // Half of the keys are in upper case.
        store.sql(
            "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT IF(seq % 2, \
             UPPER(SHA1(seq)), SHA1(seq)), 1, 0, NOW() - INTERVAL 200 DAY, NOW() - INTERVAL 199 DAY FROM seq_1_to_3000",
        );
        if shape.contains("varbinary") {
            store.sql("INSERT INTO digests (digest, r_count, r_updated) VALUES (X'FF41', 1, NOW() - INTERVAL 199 DAY)");
        }
        for _ in 0..3 {
            let home = store.home("");
            let _server = home.start();
            eventually("the sweep", || home.log().contains(" INFO Expiry: ").then_some(()));
        }
        let left = store
            .sql("SELECT COUNT(*) FROM digests WHERE CONVERT(digest USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{40}$'");
        assert_eq!(left, "0\n", "{shape}");
    }
}

#[test]
fn times_outside_the_range_of_dates_are_not_stored() {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(std::fs::exists(&library).unwrap(), "{library} is missing: run tests/setup.sh");
    for offset in ["-60y", "+20y"] {
        let store = MySql::new();
        let home = store.home("CleanupAge = 0\n").environment("LD_PRELOAD", library.clone());
        let home = home.environment("FAKETIME", offset).environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let server = home.start();
        for operation in ["report", "whitelist"] {
            assert_eq!(server.request(operation, &[DIGEST]).code(), 500, "{offset}");
        }
        assert_eq!(done(&server, "check", DIGEST).counts(), (0, 0));
        eventually("a warning", || home.log().contains("before 1970 or after 2038").then_some(()));
        assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), "0\n");
    }
}

#[test]
fn expiry_uses_the_earlier_clock() {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(std::fs::exists(&library).unwrap(), "{library} is missing: run tests/setup.sh");
    for (offset, expected) in
        [("+20y", "removed 1 of 2"), ("+1y", "removed 1 of 2"), ("-1y", "removed 0 of 2")]
    {
        let store = MySql::new();
        store.sql(&format!(
            "INSERT INTO digests (digest, r_count, r_updated) VALUES ('{DIGEST}', 1, NOW()), ('{}', 1, NOW() - \
             INTERVAL 199 DAY)",
            "b".repeat(40)
        ));
        let home = store.home("").environment("LD_PRELOAD", library.clone());
        let home = home.environment("FAKETIME", offset).environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let _server = home.start();
        eventually(expected, || home.log().contains(expected).then_some(()));
        assert_eq!(store.row("r_count", DIGEST), "1", "{offset}");
        assert!(home.log().contains("clock"), "{}", home.log());
    }
}

#[test]
fn nothing_expires_while_a_clock_is_out_of_range() {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    let store = MySql::new();
    let home = store.home("").environment("LD_PRELOAD", library);
    let home = home.environment("FAKETIME", "-60y").environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let _server = home.start();
    eventually("a warning", || {
        home.log().contains(": this machine's clock or the server's is before").then_some(())
    });
}

#[test]
fn times_with_on_update_are_preserved() {
    let time = "timestamp NOT NULL default CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP";
    let store = MySql::bare().shaped(&format!("({})", COLUMNS.replace("datetime default NULL", time)));
    for [own, other, operation] in [["r", "wl", "whitelist"], ["wl", "r", "report"]] {
        let digest =
            own.chars().map(|letter| if letter == 'r' { "a" } else { "b" }).next().unwrap().repeat(40);
        store.sql(&format!(
            "INSERT INTO digests VALUES ('{digest}', 1, 1, '2026-01-02', '2026-01-02', '2026-01-03', '2026-01-03')"
        ));
        let server = store.home("CleanupAge = 0\n").start();
        done(&server, operation, &digest);
        assert_eq!(store.row(&format!("{other}_count"), &digest), "2");
        assert_eq!(store.row(&format!("{own}_entered"), &digest), "2026-01-02 00:00:00");
        assert_eq!(store.row(&format!("{own}_updated"), &digest), "2026-01-03 00:00:00");
        assert_eq!(store.row(&format!("{other}_entered"), &digest), "2026-01-02 00:00:00");
    }
}

#[test]
fn failed_start_expires_no_records() {
    let store = MySql::new();
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, r_updated) VALUES ('{DIGEST}', 7, '2020-01-01')"
    ));
    let home = store.home_at(&store.url(&format!("{}/digests", store.name)), "CleanupAge = 86400\n");
    let _taken = home.take_port();
    finish(home.command()).expect_line(&["the port is in use"]);
    assert_eq!(store.row("r_count", DIGEST), "7");
    assert!(!home.log().contains("Expiry"), "{}", home.log());
}
