//! Tables whose shape changes while a server uses them.

use crate::engines::mysql::MySql;
use crate::engines::{Store, digests, done};
use crate::harness::{DIGEST, Home, Server, eventually};

/// Kills all connections of the server, which then opens new ones.
fn reconnect(store: &MySql) {
    store.mariadb.sql(&format!("KILL USER {}", store.name));
}

/// Waits until a report of the digest is answered with this code.
fn reported(server: &Server, digest: &str, code: i64) {
    eventually(&format!("a report with {code}"), || {
        (server.request("report", &[digest]).code() == code).then_some(())
    });
}

/// Waits until the log reports that MariaDB is unavailable, with a reason that contains this text.
fn unavailable(home: &Home, why: &str) {
    eventually(why, || {
        home.log().lines().any(|line| line.contains(" unavailable") && line.contains(why)).then_some(())
    });
}

/// Checks that the table is unavailable, with the reason `why`, from the statement `change` until the statement
/// `repair`.
fn unfit(change: &str, why: &str, repair: &str) {
    let (store, home, server) = MySql::served("CleanupAge = 0\n");
    done(&server, "report", DIGEST);
    store.sql(change);
    reconnect(&store);
    unavailable(&home, why);
    assert_eq!(server.request("report", &[DIGEST]).code(), 500, "{why}");
    assert_eq!(server.request("check", &[DIGEST]).code(), 500, "{why}");
    store.sql(repair);
    eventually("service", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    done(&server, "report", DIGEST);
    // The report that was refused while the table was unavailable has not been counted.
    assert_eq!(store.sql(&format!("SELECT r_count FROM digests WHERE digest = '{DIGEST}'")), "2\n", "{why}");
}

#[test]
fn table_without_key_is_unavailable_until_it_has_one() {
    unfit(
        "CREATE TABLE copy AS SELECT * FROM digests; DROP TABLE digests; CREATE TABLE digests AS SELECT * FROM copy",
        "several rows for one digest",
        "ALTER TABLE digests ADD PRIMARY KEY (digest)",
    );
}

#[test]
fn table_without_a_column_is_unavailable_until_it_is_back() {
    unfit(
        "ALTER TABLE digests DROP wl_entered",
        "has no column wl_entered",
        "ALTER TABLE digests ADD wl_entered datetime",
    );
}

#[test]
fn renamed_table_is_unavailable_until_it_is_back() {
    unfit("RENAME TABLE digests TO elsewhere", "does not exist", "RENAME TABLE elsewhere TO digests");
}

#[test]
fn table_with_another_unique_index_is_unavailable_until_it_is_dropped() {
    unfit(
        "ALTER TABLE digests ADD note varchar(9) NOT NULL DEFAULT '', ADD UNIQUE (note)",
        "the unique index `note`",
        "ALTER TABLE digests DROP INDEX note",
    );
}

#[test]
fn table_with_a_column_of_another_type_is_unavailable_until_it_is_changed() {
    unfit(
        "ALTER TABLE digests MODIFY r_count varchar(3)",
        "whole numbers",
        "ALTER TABLE digests MODIFY r_count int",
    );
}

#[test]
fn no_report_counts_for_another_digest_before_an_index_is_noticed() {
    let (store, home, server) = MySql::served("CleanupAge = 0\n");
    done(&server, "report", DIGEST);
    store.sql("ALTER TABLE digests ADD note varchar(9) NOT NULL DEFAULT '', ADD UNIQUE (note)");
    let others = digests(5);
    for digest in &others {
        assert_eq!(server.request("report", &[digest]).code(), 500);
        assert_eq!(server.request("whitelist", &[digest, DIGEST]).code(), 500);
    }
    let reported = u32::from(server.request("report", &[DIGEST]).code() == 200);
    assert_eq!(store.row("r_count", DIGEST), (1 + reported).to_string());
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), "1\n");
    unavailable(&home, "the unique index `note`");
}

#[test]
fn widened_column_allows_larger_counts() {
    let store = MySql::new();
    let home = store.home("CleanupAge = 0\n");
    store.sql(&format!("INSERT INTO digests (digest, r_count) VALUES ('{DIGEST}', {})", MySql::LIMIT));
    let server = home.start();
    done(&server, "report", DIGEST);
    store.sql("ALTER TABLE digests MODIFY r_count bigint, MODIFY wl_count bigint");
    reconnect(&store);
    eventually("a larger count", || {
        server.request("report", &[DIGEST]);
        let found = server.request("check", &[DIGEST]);
        (found.code() == 200 && found.counts().0 > MySql::LIMIT).then_some(())
    });
}

#[test]
fn change_is_noticed_without_a_new_connection() {
    let (store, home, server) = MySql::served("CleanupAge = 0\n");
    done(&server, "report", DIGEST);
    // This change causes no error on existing connections.
    store.sql("ALTER TABLE digests DROP PRIMARY KEY, ADD KEY (digest)");
    unavailable(&home, "several rows for one digest");
    reported(&server, DIGEST, 500);
}

/// Checks that no row counts twice if the table no longer has transactions and refuses the last row of a statement.
/// With `is_noticed` the server has inspected the table since.
fn assert_not_counted_twice(is_noticed: bool) {
    let (store, _, server) = MySql::served("CleanupAge = 0\n");
    let (digests, refused) = (digests(3), "f".repeat(40));
    done(&server, "report", &digests[0]);
    store.sql(&format!("ALTER TABLE digests ENGINE=MyISAM, ADD CHECK (digest <> '{refused}')"));
    if is_noticed {
        reconnect(&store);
    }
    reported(&server, &digests[0], 200);
    let before = done(&server, "check", &digests[0]).counts().0;
    // The statement fails at its last row, after the other rows have been counted.
    assert_eq!(server.request("report", &[&digests[0], &digests[1], &refused]).code(), 500);
    assert_eq!(done(&server, "check", &digests[0]).counts(), (before + 1, 0));
    assert_eq!(done(&server, "check", &digests[1]).counts(), (1, 0));
    assert_eq!(store.sql("SELECT COUNT(*) FROM digests"), "2\n");
}

#[test]
fn table_changed_to_myisam_is_not_counted_twice_after_it_is_noticed() {
    assert_not_counted_twice(true);
}

#[test]
fn table_changed_to_myisam_is_not_counted_twice_before_it_is_noticed() {
    assert_not_counted_twice(false);
}

#[test]
fn new_reason_for_unavailability_is_logged() {
    let store = MySql::new();
    let name = &store.name;
    let home = store.home("CleanupAge = 0\n");
    let server = home.start();
    store.sql("RENAME TABLE digests TO elsewhere");
    reconnect(&store);
    unavailable(&home, "does not exist");
    // From now on an unchanged reason is logged only once a minute, which is longer than this test waits.
    eventually("a reminder", || home.log().contains("still unavailable").then_some(()));
    store.sql(&format!("ALTER USER {name} IDENTIFIED BY 'another'"));
    unavailable(&home, "Access denied");
    store.sql(&format!(
        "ALTER USER {name} IDENTIFIED BY 'secret'; CREATE TABLE digests AS SELECT * FROM elsewhere"
    ));
    unavailable(&home, "several rows for one digest");
    store.sql("ALTER TABLE digests ADD PRIMARY KEY (digest)");
    reported(&server, DIGEST, 200);
}
