//! Clusters, Sentinel services, sockets, TLS, and MySQL tables of other definitions.

use super::sides::COLUMNS;
use super::sides::{Gdbm, Hashes, MySql};
use super::{Content, PASSWORD, Place, Record, Side, Summary, digest};
use crate::harness::{Certificate, MariaDb, RedisCluster, Sentinel};

const COUNT: u32 = 300;

/// A gdbm file with [`COUNT`] records.
fn source() -> Gdbm {
    let source = Gdbm::new();
    let digests: Vec<String> = (0..COUNT).map(digest).collect();
    let records: Vec<_> =
        (1..).zip(&digests).map(|(count, digest)| (digest.as_str(), Record::full(count))).collect();
    source.plant(&records, "UTC");
    source
}

/// Copies records to a database and back, and then moves them out of it.
#[track_caller]
fn there_and_back(engine: &str, dsn: &str) {
    let (source, copy, moved, place) = (source(), Gdbm::new(), Gdbm::new(), Place::new());
    let closing = format!("Migration complete, {COUNT} records transferred successfully, 0 records failed\n");
    let finished = place.run(&["--se=gdbm", "--sd", &source.dsn(), "--de", engine, "--dd", dsn, "--verify"]);
    assert!(finished.code == Some(0) && finished.stdout.contains(&closing), "{finished:?}");
    assert!(finished.stdout.contains(&format!("{COUNT} records compared, 0 differ\n")), "{finished:?}");
    place
        .run(&["--se", engine, "--sd", dsn, "--de=gdbm", "--dd", &copy.dsn()])
        .expect_plain(&copy, COUNT.into());
    copy.expect(&source.all());
    let ends = ["--se", engine, "--sd", dsn, "--de=gdbm", "--dd", &moved.dsn(), "--delete"];
    let expected = Summary { complete: Some((COUNT.into(), 0)), deleted: COUNT.into(), ..Summary::default() };
    assert_eq!(place.run(&ends).migrated(), expected);
    moved.expect(&source.all());
    let finished = place.run(&["--se", engine, "--sd", dsn, "--de=gdbm", "--dd=nothing.db"]);
    finished.expect_plain(&moved, 0);
}

#[test]
fn a_cluster_is_a_destination_and_a_source() {
    let cluster = RedisCluster::start(None);
    let (source, place, dsn) = (source(), Place::new(), cluster.dsn());
    let sizes = || -> Vec<u32> {
        cluster.nodes().iter().map(|node| node.cli(&["dbsize"]).trim().parse().unwrap()).collect()
    };
    place
        .run(&["--se=gdbm", "--sd", &source.dsn(), "--de=redis", "--dd", &dsn])
        .expect_plain(&Hashes::new(), COUNT.into());
    assert!(sizes().iter().sum::<u32>() == COUNT && !sizes().contains(&0), "{:?}", sizes());
    // The same cluster through another node.
    let other = format!("redis+cluster://127.0.0.1:{}", cluster.nodes()[2].port());
    place.run(&["--se=redis", "--sd", &dsn, "--de=redis", "--dd", &other]).expect_refusal(&["same"]);
    there_and_back("redis", &dsn);
    assert_eq!(sizes(), [0, 0, 0]);
    there_and_back("redis_v0", &dsn);
    assert_eq!(sizes(), [0, 0, 0]);
}

#[test]
fn the_master_of_a_service_is_a_destination_and_a_source() {
    let sentinel = Sentinel::start();
    let dsn = format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port());
    there_and_back("redis", &dsn);
    // The same master by its own address.
    let (source, place) = (source(), Place::new());
    let master = format!("127.0.0.1,{},,0", sentinel.master().port());
    place
        .run(&["--se=gdbm", "--sd", &source.dsn(), "--de=redis", "--dd", &master])
        .expect_plain(&Hashes::new(), COUNT.into());
    place.run(&["--se=redis", "--sd", &dsn, "--de=redis", "--dd", &master]).expect_refusal(&["same"]);
}

#[test]
fn a_redis_is_reached_through_tls_and_by_its_socket() {
    let certificate = Certificate::new();
    let port = crate::harness::free_port();
    let options = format!(
        "--port 0 --tls-port {port} --tls-auth-clients no --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} \
         --requirepass {PASSWORD}",
        certificate.server().display(),
        certificate.key().display(),
        certificate.authority().display()
    );
    let authority = certificate.authority().display().to_string();
    let client = ["--tls", "--cacert", &authority, "--no-auth-warning", "-a", PASSWORD];
    let redis = crate::harness::Redis::at(port, &options, &client);
    there_and_back("redis", &format!("rediss://:{PASSWORD}@localhost:{port}/0?ca={authority}"));
    there_and_back("redis_v0", &format!("{},,{PASSWORD},0", redis.socket().display()));
}

#[test]
fn a_table_is_reached_by_the_socket_of_its_server() {
    let mysql = MySql::absent();
    let (socket, name) = (mysql.mariadb().socket().display().to_string(), mysql.name());
    there_and_back("mysql", &format!("{socket},{name},{PASSWORD},{name},digests"));
    mysql.expect(&Content::new());
}

#[test]
fn tables_of_other_shapes_are_destinations_and_sources() {
    let shape = |from: &str, to: &str| {
        assert!(COLUMNS.contains(from));
        format!("({})", COLUMNS.replace(from, to))
    };
    for shape in [
        shape("int(11)", "bigint(20)"),
        shape("int(11)", "int(10) unsigned"),
        shape("int(11) default NULL", "int(11) NOT NULL default 0"),
        shape("char(40) default NULL", "varchar(40) NOT NULL"),
        shape("char(40) default NULL", "binary(40) NOT NULL"),
        shape("char(40)", "char(64)"),
        shape("datetime default NULL", "timestamp NULL default NULL"),
        shape("datetime default NULL", "timestamp NOT NULL default '0000-00-00 00:00:00'"),
        shape("datetime", "datetime(6)"),
        shape("PRIMARY KEY", "UNIQUE KEY"),
        shape("PRIMARY KEY (`digest`)", "id int AUTO_INCREMENT PRIMARY KEY, UNIQUE (digest)"),
        shape("PRIMARY KEY", "note varchar(9) NOT NULL default 'none', PRIMARY KEY"),
        shape("r_count", "R_Count"),
        format!("({COLUMNS}) ENGINE=MyISAM"),
        format!("({COLUMNS}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        format!("({COLUMNS}) CHARACTER SET latin1 COLLATE latin1_swedish_ci"),
        format!("({COLUMNS}) PARTITION BY KEY (digest) PARTITIONS 4"),
    ] {
        let mysql = MySql::absent();
        mysql.sql(&format!("CREATE TABLE digests {shape}"));
        println!("{shape}");
        there_and_back("mysql", &mysql.dsn());
    }
}

#[test]
fn the_time_zone_of_a_mysql_server_skews_nothing() {
    let mariadb = MariaDb::with("--default-time-zone=+05:30");
    mariadb.sql(&format!("SET PASSWORD FOR pyzor@localhost = PASSWORD('{PASSWORD}')"));
    let dsn = format!("127.0.0.1:{},pyzor,{PASSWORD},pyzor,digests", mariadb.port());
    there_and_back("mysql", &dsn);
    let (source, place) = (source(), Place::at("America/New_York"));
    place
        .run(&["--se=gdbm", "--sd", &source.dsn(), "--de=mysql", "--dd", &dsn])
        .expect_plain(&source, COUNT.into());
    // 07:06:40 UTC is 03:06:40 in New York.
    let row = format!(
        "SELECT r_entered, UNIX_TIMESTAMP(r_entered) FROM pyzor.digests WHERE digest = '{}'",
        digest(0)
    );
    assert_eq!(mariadb.sql(&row), "2011-03-13 16:36:40\t1300014400\n");
}
