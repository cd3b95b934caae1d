//! Counts and digests.

use std::sync::Arc;

use crate::engines::mysql::{COLUMNS, MySql};
use crate::engines::{Store, THEN, digests, done};
use crate::harness::{DIGEST, MariaDb, eventually, unix_time};

#[test]
fn keys_that_are_not_digests_are_kept_with_one_warning() {
    let store = MySql::new();
    let home = store.home("");
    // Old enough to expire if they were digests.
    store.sql(&format!(
        "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated) SELECT digest, 1, 0, \
         FROM_UNIXTIME({THEN}), FROM_UNIXTIME({THEN}) FROM (SELECT '' digest UNION SELECT 'short' UNION \
         SELECT REPEAT('x', 40) UNION SELECT '{DIGEST}') digests"
    ));
    let server = home.start();
    let said = |text: &str| home.log().lines().filter(|line| line.contains(text)).count();
    eventually("a warning", || (said("pyzor-migrate") > 0).then_some(()));
    eventually("a sweep", || (said(" Expiry: removed 1 of ") > 0).then_some(()));
    done(&server, "report", DIGEST);
    assert!(server.stop().success());
    assert_eq!(said("pyzor-migrate"), 1, "{}", home.log());
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), "4\n");
}

#[test]
fn null_counts_are_0_and_become_numbers() {
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
    // A row without changes stays as it is.
    assert_eq!(store.row("r_count, wl_count", &digests[2]), "NULL\tNULL");
}

#[test]
fn many_reports_in_one_datagram_stop_at_the_limit() {
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
fn acknowledged_reports_are_committed_even_with_autocommit_off() {
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
fn column_or_index_without_whole_digests_is_refused() {
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
fn table_that_would_store_wrong_counts_is_refused_with_the_repairing_statement() {
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
        ("`r_updated` datetime", "`r_updated` date", "a date with a time"),
        ("`wl_entered` datetime", "`wl_entered` time", "a date with a time"),
        ("`r_entered` datetime", "`r_entered` bigint", "a date with a time"),
        ("`wl_updated` datetime", "`wl_updated` varchar(20)", "a date with a time"),
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
fn digest_refused_by_a_trigger_does_not_affect_others() {
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
fn refused_row_is_found_with_few_statements() {
    let store = MySql::with_table_in(Arc::new(MariaDb::start()));
    let counted = digests(63);
    let refused = "f".repeat(40);
    store.sql(&format!("ALTER TABLE digests ADD CHECK (digest <> '{refused}')"));
    let server = store.home("CleanupAge = 0\n").start();
    let before = inserts(&store);
    let all: Vec<&str> = counted.iter().chain([&refused]).map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 500);
    // The first statement, and two for each of the six times that 64 rows can be halved.
    assert_eq!(inserts(&store) - before, 13);
    assert_eq!(store.sql("SELECT COUNT(*), SUM(r_count) FROM digests"), "63\t63\n");
}

#[test]
fn many_refused_rows_take_few_more_statements_than_rows() {
    let store = MySql::with_table_in(Arc::new(MariaDb::start()));
    // The table refuses every second digest in its order.
    let all: Vec<String> = (0..64).map(|number| format!("{number:039x}{}", number % 2)).collect();
    store.sql("ALTER TABLE digests ADD CHECK (digest NOT LIKE '%1')");
    let server = store.home("CleanupAge = 0\n").start();
    let before = inserts(&store);
    assert_eq!(server.request("report", &all.iter().map(String::as_str).collect::<Vec<_>>()).code(), 500);
    // The first statement, two for each of the 16 halvings, and one for each row.
    let after = inserts(&store) - before;
    assert!(after <= 1 + 2 * 16 + 64, "{after}");
    assert_eq!(store.sql("SELECT COUNT(*), SUM(r_count) FROM digests"), "32\t32\n");
}

/// Returns how many INSERT statements the database server has run.
fn inserts(store: &MySql) -> u64 {
    let status = store.sql("SHOW GLOBAL STATUS LIKE 'Com_insert'");
    status.split_whitespace().last().unwrap().parse().unwrap()
}
