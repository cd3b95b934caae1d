//! Tables that are not quite the manual's, what others may have left in them, and what ours leaves.

use std::sync::Arc;

use super::{COLUMNS, MySql};
use crate::engines::{DAY, LATER, Store, THEN, digests, done};
use crate::harness::{DIGEST, MariaDb, eventually, ours_only, unix_time};

#[test]
fn tables_of_other_shapes_are_served() {
    let shape = |from: &str, to: &str| {
        assert!(COLUMNS.contains(from));
        format!("({})", COLUMNS.replace(from, to))
    };
    let zero = "timestamp NOT NULL default '0000-00-00 00:00:00'";
    for shape in [
        shape("int(11)", "bigint(20)"),
        shape("int(11)", "int(10) unsigned"),
        shape("int(11) default NULL", "int(11) NOT NULL default 0"),
        shape("char(40) default NULL", "varchar(40) NOT NULL"),
        shape("char(40) default NULL", "binary(40) NOT NULL"),
        shape("char(40)", "char(64)"),
        shape("datetime default NULL", "timestamp NULL default NULL"),
        shape("datetime default NULL", zero),
        shape("datetime default NULL", "datetime NOT NULL"),
        shape("datetime", "datetime(6)"),
        shape("PRIMARY KEY", "UNIQUE KEY"),
        shape("PRIMARY KEY (`digest`)", "id int AUTO_INCREMENT PRIMARY KEY, UNIQUE (digest)"),
        shape("PRIMARY KEY", "note varchar(9) NOT NULL default 'none', PRIMARY KEY"),
        shape("PRIMARY KEY", "KEY (r_updated), PRIMARY KEY"),
        // Unique indexes of which no new row can meet an old one.
        shape("PRIMARY KEY", "note varchar(9), UNIQUE (note), PRIMARY KEY"),
        shape("PRIMARY KEY", "UNIQUE (r_count, digest), PRIMARY KEY"),
        shape("PRIMARY KEY", "id serial, UNIQUE (r_count, id), PRIMARY KEY"),
        shape("int(11)", "smallint(5) unsigned zerofill"),
        shape("int(11)", "mediumint"),
        shape("r_count", "R_Count"),
        format!("({COLUMNS}) ENGINE=MyISAM"),
        format!("({COLUMNS}) ENGINE=Aria"),
        format!("({COLUMNS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        format!("({COLUMNS}) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
        format!("({COLUMNS}) PARTITION BY KEY (digest) PARTITIONS 4"),
    ] {
        let store = MySql::bare().shaped(&shape);
        let home = store.home("");
        let server = home.start();
        let (other, start) = ("b".repeat(40), unix_time());
        for _ in 0..2 {
            assert_eq!(server.request("report", &[DIGEST, &other, DIGEST]).code(), 200, "{shape}");
            assert_eq!(server.request("whitelist", &[&other]).code(), 200, "{shape}");
        }
        let info = done(&server, "info", DIGEST);
        assert_eq!(info.counts(), (4, 0), "{shape}");
        let [entered, updated, ..] = info.times();
        assert!(
            start <= entered && entered <= updated && updated <= unix_time(),
            "{shape}: {info:?}",
            info = info.times()
        );
        let info = done(&server, "info", &other);
        assert_eq!(info.counts(), (2, 2), "{shape}");
        assert!(info.times().iter().all(|time| (start..=unix_time()).contains(time)), "{shape}");
        assert!(server.stop().success());
        assert_eq!(
            store.sql("SELECT COUNT(*), SUM(r_count), SUM(wl_count) FROM digests"),
            "2\t6\t2\n",
            "{shape}"
        );
    }
}

#[test]
fn what_is_in_other_columns_stays() {
    let store = MySql::bare().table(&format!("{COLUMNS}, note varchar(9) NOT NULL default 'none'"));
    let home = store.home("");
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count, note) VALUES ('{DIGEST}', 1, 0, 'mine')"
    ));
    let server = home.start();
    let other = "b".repeat(40);
    assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
    assert_eq!(store.row("r_count, note", DIGEST), "2\tmine");
    assert_eq!(store.row("r_count, note", &other), "1\tnone");
}

#[test]
fn upper_case_digests_of_others_are_counted_in_their_row() {
    for columns in [
        COLUMNS.to_owned(),
        COLUMNS.replace("char(40) default NULL", "varchar(40) CHARACTER SET latin1 NOT NULL"),
    ] {
        let store = MySql::bare().table(&columns);
        let home = store.home("CleanupAge = 0\n");
        let upper = DIGEST.to_uppercase();
        let time = format!("FROM_UNIXTIME({THEN})");
        store.sql(&format!("INSERT INTO digests VALUES ('{upper}', 5, 3, {time}, {time}, {time}, {time})"));
        let server = home.start();
        assert_eq!(done(&server, "check", DIGEST).counts(), (5, 3));
        assert_eq!(done(&server, "info", DIGEST).times(), [THEN; 4]);
        done(&server, "report", DIGEST);
        done(&server, "whitelist", DIGEST);
        assert_eq!(done(&server, "check", DIGEST).counts(), (6, 4));
        server.stop();
        assert_eq!(store.sql("SELECT digest, r_count, wl_count FROM digests"), format!("{upper}\t6\t4\n"));
    }
}

#[test]
fn keys_that_are_no_digests_are_left_alone_with_one_warning() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    // Old enough to expire, if they were digests.
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT digest, 1, 0, \
         FROM_UNIXTIME({THEN}), FROM_UNIXTIME({THEN}) FROM (SELECT '' digest UNION SELECT 'short' UNION \
         SELECT REPEAT('x', 40) UNION SELECT '{DIGEST}') digests"
    ));
    let server = home.start();
    let said = |text: &str| home.log().lines().filter(|line| line.contains(text)).count();
    eventually("a warning", || (said("pyzor-migrate") > 0).then_some(()));
    eventually("a sweep", || (said(" Expired 1 of ") > 0).then_some(()));
    done(&server, "report", DIGEST);
    assert!(server.stop().success());
    assert_eq!(said("pyzor-migrate"), 1, "{}", home.log());
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), "4\n");
}

#[test]
fn counts_that_are_null_are_0_and_become_numbers() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    let digests = digests(3);
    for digest in &digests {
        store.sql(&format!("INSERT INTO digests (digest) VALUES ('{digest}')"));
    }
    let server = home.start();
    let start = unix_time();
    let info = done(&server, "info", &digests[0]);
    assert_eq!((info.counts(), info.times()), ((0, 0), [0; 4]));
    done(&server, "report", &digests[0]);
    done(&server, "whitelist", &digests[1]);
    let info = done(&server, "info", &digests[0]);
    assert_eq!(info.counts(), (1, 0));
    let [entered, updated, ..] = info.times();
    assert_eq!(info.times(), [entered, entered, 0, 0]);
    assert!(start <= entered && updated <= unix_time());
    assert_eq!(done(&server, "check", &digests[1]).counts(), (0, 1));
    assert_eq!(store.row("r_count, wl_count", &digests[0]), "1\t0");
    assert_eq!(store.row("r_count, wl_count", &digests[1]), "0\t1");
    // What nobody changes stays as it is.
    assert_eq!(store.row("r_count, wl_count", &digests[2]), "NULL\tNULL");
}

#[test]
fn zero_dates_are_unset() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    let zero = "'0000-00-00 00:00:00'";
    store.sql(&format!(
        "SET sql_mode = ''; INSERT INTO digests VALUES ('{DIGEST}', 3, 2, {zero}, {zero}, {zero}, {zero})"
    ));
    let server = home.start();
    let info = done(&server, "info", DIGEST);
    assert_eq!((info.counts(), info.times()), ((3, 2), [0; 4]));
    let start = unix_time();
    done(&server, "report", DIGEST);
    let info = done(&server, "info", DIGEST);
    assert_eq!(info.counts(), (4, 2));
    let [_, updated, wl_entered, wl_updated] = info.times();
    assert!((start..=unix_time()).contains(&updated));
    assert_eq!((wl_entered, wl_updated), (0, 0));
}

#[test]
fn the_first_change_leaves_the_other_tally_without_times() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    let server = home.start();
    let other = "b".repeat(40);
    done(&server, "report", DIGEST);
    done(&server, "whitelist", &other);
    let columns = |tally: &str| format!("{tally}_count, {tally}_entered, {tally}_updated");
    assert_eq!(store.row(&columns("wl"), DIGEST), "0\tNULL\tNULL");
    assert_eq!(store.row(&columns("r"), &other), "0\tNULL\tNULL");
    // Neither does the second.
    done(&server, "report", DIGEST);
    assert_eq!(store.row(&columns("wl"), DIGEST), "0\tNULL\tNULL");
}

#[test]
fn the_first_report_of_a_whitelisted_digest_dates_its_reports() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    // The established server has put the time of the whitelisting there.
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
fn a_column_for_more_counts_on() {
    for kind in ["bigint(20)", "int(10) unsigned"] {
        let store = MySql::bare().table(&COLUMNS.replace("int(11)", kind));
        let home = store.home("");
        store.sql(&format!(
            "INSERT INTO digests (digest, r_count, wl_count) VALUES ('{DIGEST}', 2147483647, 1)"
        ));
        let server = home.start();
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "check", DIGEST).counts(), (2_147_483_648, 1), "{kind}");
    }
}

#[test]
fn many_reports_in_one_datagram_stop_at_the_limit() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let home = store.home("");
    let limit = MySql::LIMIT;
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count) VALUES ('{DIGEST}', {limit} - 50, 0)"
    ));
    let server = home.start();
    assert_eq!(server.request("report", &[DIGEST; 100]).code(), 200);
    assert_eq!(done(&server, "check", DIGEST).counts(), (limit, 0));
    // The other tally has room.
    done(&server, "whitelist", DIGEST);
    assert_eq!(done(&server, "check", DIGEST).counts(), (limit, 1));
}

#[test]
fn times_are_right_whatever_the_time_zones() {
    if !ours_only() {
        return;
    }
    let store = MySql::with_table_in(Arc::new(MariaDb::with("--default-time-zone=+05:00")));
    for (of_database, of_server) in
        [("+05:00", "UTC"), ("+05:00", "America/New_York"), ("-03:30", "UTC"), ("+13:00", "Asia/Kolkata")]
    {
        // For connections from now on.
        store.sql(&format!("DELETE FROM digests; SET GLOBAL time_zone = '{of_database}'"));
        let now = unix_time();
        let digests = digests(3);
        let age = 7200;
        for (digest, age) in digests.iter().zip([age - 1800, age + 1800]) {
            let time = format!("FROM_UNIXTIME({})", now - age);
            store.sql(&format!(
                "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) VALUES ('{digest}', 1, 0, {time}, \
                 {time})"
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
        // For who looks at the database itself, they are local times there.
        let difference = store.row("ABS(TIMESTAMPDIFF(SECOND, r_updated, NOW())) < 60", &digests[2]);
        assert_eq!(difference, "1", "{context}");
    }
}

#[test]
fn records_without_times_do_not_expire() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 864000\n");
    let digests = digests(3);
    let old = format!("FROM_UNIXTIME({})", unix_time() - 11 * DAY);
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) VALUES ('{}', 1, 0, NULL, NULL), \
         ('{}', 1, 0, {old}, NULL), ('{}', 1, 0, {old}, {old})",
        digests[0], digests[1], digests[2]
    ));
    let server = home.start();
    eventually("expiry", || (done(&server, "check", &digests[2]).counts() == (0, 0)).then_some(()));
    assert!(server.stop().success());
    let left = store.sql("SELECT digest FROM digests ORDER BY digest");
    assert_eq!(left, format!("{}\n{}\n", digests[0], digests[1]));
}

#[test]
fn records_with_times_of_one_tally_alone_expire_by_it() {
    if !ours_only() {
        return;
    }
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
            "INSERT INTO digests (digest, r_count, wl_count, {tally}_entered, {tally}_updated) VALUES ('{digest}', 1, 1, \
             FROM_UNIXTIME({time}), FROM_UNIXTIME({time}))"
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
fn of_thousands_of_records_exactly_the_expired_ones_go() {
    const RECORDS: i64 = 5000;
    let store = MySql::new();
    let home = store.home("CleanupAge = 864000\n");
    // Of all ages from half a day to 19 and a half, in no order, and the names of those that are to stay.
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT SHA1(seq), seq % 20, 0, \
         FROM_UNIXTIME({THEN}), NOW() - INTERVAL (seq % 20) * 24 + 12 HOUR FROM seq_1_to_{RECORDS}; \
         CREATE TABLE young AS SELECT digest FROM digests WHERE r_count < 10"
    ));
    let server = home.start();
    let left = || store.sql("SELECT COUNT(*) FROM digests");
    eventually("expiry", || (left() == format!("{}\n", RECORDS / 2)).then_some(()));
    done(&server, "report", DIGEST);
    assert!(server.stop().success());
    assert_eq!(
        store.sql("SELECT COUNT(*) FROM digests JOIN young USING (digest)"),
        format!("{}\n", RECORDS / 2)
    );
    assert_eq!(left(), format!("{}\n", RECORDS / 2 + 1));
}

#[test]
fn a_record_that_is_reported_while_it_expires_stays_with_its_new_report() {
    if !ours_only() {
        return;
    }
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
        // Either it was expired before, or it had been changed and was not old any more.
        let count = store.row("r_count", &digest);
        assert!(["1", "8"].contains(&count.as_str()), "{count:?}");
    }
}

#[test]
fn what_is_acknowledged_is_committed_whatever_the_server_is_told() {
    if !ours_only() {
        return;
    }
    let mariadb = Arc::new(MariaDb::with("--autocommit=0"));
    let store = MySql::within(Arc::clone(&mariadb)).table(COLUMNS);
    let server = store.home("CleanupAge = 0\n").start();
    for count in 1..=3 {
        done(&server, "report", DIGEST);
        assert_eq!(store.row("r_count", DIGEST), count.to_string());
    }
    drop(server);
    assert_eq!(store.row("r_count", DIGEST), "3");
    store.sql("UPDATE digests SET r_updated = NOW() - INTERVAL 200 DAY; COMMIT");
    let server = store.home("").start();
    eventually("expiry", || store.sql("SELECT COUNT(*) FROM digests").starts_with('0').then_some(()));
    drop(server);
}

#[test]
fn no_mode_of_the_server_changes_what_is_read_and_expires() {
    if !ours_only() {
        return;
    }
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
fn every_expired_record_goes_whatever_the_order_of_the_keys() {
    if !ours_only() {
        return;
    }
    for shape in [
        format!("({COLUMNS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        format!("({COLUMNS}) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
        format!("({})", COLUMNS.replace("char(40)", "varbinary(60)")),
    ] {
        let store = MySql::bare().shaped(&shape);
        // Upper-case keys and such as are no text are among them.
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
            eventually("the sweep", || home.log().contains(" INFO Expired ").then_some(()));
        }
        let left = store
            .sql("SELECT COUNT(*) FROM digests WHERE CONVERT(digest USING latin1) COLLATE latin1_bin REGEXP '^[0-9a-f]{40}$'");
        assert_eq!(left, "0\n", "{shape}");
    }
}

#[test]
fn a_column_or_an_index_that_does_not_hold_whole_digests_alone_is_refused() {
    if !ours_only() {
        return;
    }
    for (from, to, why) in [
        ("char(40)", "char(32)", "too narrow"),
        ("char(40) default NULL", "binary(64) NOT NULL", "zero bytes"),
        ("PRIMARY KEY (`digest`)", "UNIQUE (`digest`(8))", "unique index of whole digests"),
        ("PRIMARY KEY (`digest`)", "UNIQUE (`digest`, `r_count`)", "unique index of whole digests"),
    ] {
        assert!(COLUMNS.contains(from));
        let store = MySql::bare().table(&COLUMNS.replace(from, to));
        let home = store.home("");
        assert_eq!(home.try_start().err().expect(to).code(), Some(1), "{to}");
        assert!(home.stderr().contains(why), "{}", home.stderr());
    }
}

#[test]
fn a_table_in_which_counts_would_be_wrong_is_refused_with_the_statement_that_repairs_it() {
    if !ours_only() {
        return;
    }
    let index = "the unique index";
    for (from, to, why) in [
        ("PRIMARY KEY", "note varchar(9) NOT NULL default '', UNIQUE (note), PRIMARY KEY", index),
        ("PRIMARY KEY (`digest`)", "id int default 0 PRIMARY KEY, UNIQUE (digest)", index),
        ("PRIMARY KEY", "UNIQUE (digest(8)), PRIMARY KEY", index),
        ("PRIMARY KEY", "UNIQUE (wl_count, r_updated), PRIMARY KEY", index),
        ("PRIMARY KEY", "twice int AS (2 * r_count) STORED UNIQUE, PRIMARY KEY", index),
        ("`r_count` int(11)", "`r_count` varchar(3)", "whole numbers"),
        ("`wl_count` int(11)", "`wl_count` decimal(3,0)", "whole numbers"),
        ("`r_count` int(11)", "`r_count` double", "whole numbers"),
        ("`r_updated` datetime", "`r_updated` date", "date and the time"),
        ("`wl_entered` datetime", "`wl_entered` time", "date and the time"),
        ("`r_entered` datetime", "`r_entered` bigint", "date and the time"),
        ("`wl_updated` datetime", "`wl_updated` varchar(20)", "date and the time"),
    ] {
        assert!(COLUMNS.contains(from));
        let store = MySql::bare().table(&COLUMNS.replace(from, to));
        let home = store.home("");
        assert_eq!(home.try_start().err().expect(to).code(), Some(1), "{to}");
        let line = home.stderr();
        assert!(line.contains(why), "{line}");
        store.sql(&line[line.find("ALTER TABLE").expect(&line)..]);
        let server = store.home("").start();
        for digest in [DIGEST, &digests(1)[0]] {
            done(&server, "report", digest);
            assert_eq!(done(&server, "check", digest).counts(), (1, 0), "{to}");
        }
    }
}

#[test]
fn one_digest_that_a_trigger_refuses_keeps_no_other_from_being_counted() {
    if !ours_only() {
        return;
    }
    for signal in ["SQLSTATE '45000'", "SQLSTATE '45000' SET MYSQL_ERRNO = 1000", "SQLSTATE 'HY000'"] {
        let store = MySql::new();
        let refused = "f".repeat(40);
        store.sql(&format!(
            "\nDELIMITER //\nCREATE TRIGGER refuses BEFORE INSERT ON digests FOR EACH ROW IF NEW.digest = '{refused}' \
             THEN SIGNAL {signal}; END IF//\n"
        ));
        let server = store.home("CleanupAge = 0\n").start();
        assert_eq!(server.request("report", &[DIGEST, &"b".repeat(40), &refused]).code(), 500, "{signal}");
        assert_eq!(store.sql("SELECT COUNT(*), SUM(r_count) FROM digests"), "2\t2\n", "{signal}");
        assert_eq!(server.request("report", &[&refused]).code(), 500, "{signal}");
    }
}

#[test]
fn times_that_no_date_can_be_are_not_stored() {
    if !ours_only() {
        return;
    }
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
fn expiry_goes_by_the_earlier_clock_of_both_machines() {
    if !ours_only() {
        return;
    }
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(std::fs::exists(&library).unwrap(), "{library} is missing: run tests/setup.sh");
    for (offset, expected) in
        [("+20y", "Expired 1 of 2"), ("+1y", "Expired 1 of 2"), ("-1y", "Expired 0 of 2")]
    {
        let store = MySql::new();
        store.sql(&format!(
            "INSERT INTO digests (digest, r_count, r_updated) VALUES ('{DIGEST}', 1, NOW()), ('{}', 1, NOW() - INTERVAL \
             199 DAY)",
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
fn nothing_expires_while_no_clock_can_be_right() {
    if !ours_only() {
        return;
    }
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    let store = MySql::new();
    let home = store.home("").environment("LD_PRELOAD", library);
    let home = home.environment("FAKETIME", "-60y").environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let _server = home.start();
    eventually("a warning", || home.log().contains("was given up: by this machine's clock").then_some(()));
}
