//! Tables of other shapes than the manual's, with rows of other programs.

mod ours;

use super::{COLUMNS, MySql};
use crate::engines::{DAY, Store, THEN, digests, done};
use crate::harness::{DIGEST, eventually, unix_time};

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
        // Unique indexes in which a new row never equals an existing one.
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
fn other_columns_are_preserved() {
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
fn upper_case_digest_is_counted_in_its_row() {
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
fn zero_dates_mean_no_time() {
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
fn wider_column_allows_larger_counts() {
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
fn exactly_the_expired_of_thousands_of_records_are_deleted() {
    const RECORDS: i64 = 5000;
    let store = MySql::new();
    let home = store.home("CleanupAge = 864000\n");
    // Ages from 0.5 to 19.5 days, in random order. The table `young` has the digests that must stay.
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
