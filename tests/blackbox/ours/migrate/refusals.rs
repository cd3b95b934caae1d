//! Refused migrations: one error line without a password, and no changes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::thread;

use super::sides::{COLUMNS, Gdbm, Hashes, MySql, Texts};
use super::{Content, PASSWORD, Place, Record, Side, digest};
use crate::harness::{Finished, Redis, free_port};

/// Stores one record in a database, and returns the content.
fn planted(side: &dyn Side) -> Content {
    side.plant(&[(&digest(1), Record::full(5))], "UTC");
    side.all()
}

/// Runs the program with this source and destination.
fn between(place: &Place, source: [&str; 2], destination: [&str; 2]) -> Finished {
    let [from_engine, from] = source;
    let [to_engine, to] = destination;
    place.run(&["--se", from_engine, "--sd", from, "--de", to_engine, "--dd", to])
}

#[test]
fn missing_source_is_reported_and_nothing_created() {
    let place = Place::new();
    let missing = place.work().join("missing.db").display().to_string();
    for destination in [&Gdbm::absent() as &dyn Side, &MySql::absent()] {
        for options in [&[][..], &["--delete"], &["--dry-run"], &["--merge", "--journal=journal"]] {
            let gdbm = Gdbm::absent();
            place.migrate(&gdbm, destination, options).expect_refusal(&["pyzord.db", "No such file"]);
            assert!(!gdbm.is_there());
            let mysql = MySql::absent();
            place.migrate(&mysql, destination, options).expect_refusal(&["digests"]);
            assert!(!mysql.is_there());
        }
        assert!(!destination.is_there());
    }
    let finished = between(&place, ["gdbm", &missing], ["gdbm", "new.db"]);
    finished.expect_refusal(&["missing.db"]);
    assert_eq!(fs::read_dir(place.work()).unwrap().count(), 0);
}

#[test]
fn file_that_is_not_a_database_is_refused_and_not_changed() {
    let place = Place::new();
    let destination = Gdbm::new();
    place.file("text.db", "this is a text ".repeat(1000));
    fs::create_dir(place.work().join("directory.db")).unwrap();
    for name in ["text.db", "directory.db"] {
        between(&place, ["gdbm", name], ["gdbm", &destination.dsn()]).expect_refusal(&[name]);
        assert!(!destination.is_there());
        let source = Gdbm::new();
        planted(&source);
        between(&place, ["gdbm", &source.dsn()], ["gdbm", name]).expect_refusal(&[name]);
    }
    assert_eq!(fs::read_to_string(place.work().join("text.db")).unwrap(), "this is a text ".repeat(1000));
    let source = Gdbm::new();
    planted(&source);
    between(&place, ["gdbm", &source.dsn()], ["gdbm", "no/such/directory/new.db"])
        .expect_refusal(&["no/such/directory"]);
    assert!(!place.work().join("no").exists());
}

#[test]
fn one_file_under_two_names_is_refused() {
    let (source, place) = (Gdbm::new(), Place::new());
    let before = planted(&source);
    let (link, twin) = (place.work().join("link.db"), place.work().join("twin.db"));
    symlink(source.path(), &link).unwrap();
    fs::hard_link(source.path(), &twin).unwrap();
    let path = source.dsn();
    let roundabout = path.replace("/home/", "/home/../home/./");
    for to in [path.as_str(), "link.db", "twin.db", &roundabout] {
        for options in [&[][..], &["--delete"], &["--dry-run"], &["--verify-only"]] {
            let ends = ["--se=gdbm", "--sd", path.as_str(), "--de=gdbm", "--dd", to];
            place.run(&[&ends[..], options].concat()).expect_refusal(&["same"]);
            source.expect(&before);
        }
    }
    between(&place, ["gdbm", "link.db"], ["gdbm", "twin.db"]).expect_refusal(&["same"]);
    source.expect(&before);
    // Another file with equal content.
    fs::copy(source.path(), place.work().join("copy.db")).unwrap();
    between(&place, ["gdbm", &path], ["gdbm", "copy.db"]).expect_plain(&source, 1);
}

#[test]
fn one_redis_under_two_addresses_is_refused() {
    let (source, place) = (Hashes::new(), Place::new());
    let before = planted(&source);
    let (port, socket) = (source.redis().port(), source.redis().socket().display().to_string());
    let addresses = [
        format!("127.0.0.1,{port},{PASSWORD},0"),
        format!("localhost,{port},{PASSWORD},0"),
        format!("redis://:{PASSWORD}@127.0.0.1:{port}"),
        format!("{socket},,{PASSWORD},0"),
        format!("redis+unix://{socket}?db=0&password={PASSWORD}"),
    ];
    for to in &addresses {
        let finished = between(&place, ["redis", &source.dsn()], ["redis", to]);
        finished.expect_refusal(&["same"]);
        let finished = between(&place, ["redis_v0", to], ["redis_v0", &source.dsn()]);
        finished.expect_refusal(&["same"]);
    }
    source.expect(&before);
    // Another database number is another database, and so is redis_v0 in the same one.
    let other = format!("127.0.0.1,{port},{PASSWORD},1");
    between(&place, ["redis", &source.dsn()], ["redis", &other]).expect_plain(&source, 1);
    assert_eq!(source.redis().cli(&["-n", "1", "dbsize"]), "1\n");
    between(&place, ["redis", &source.dsn()], ["redis_v0", &other]).expect_plain(&source, 1);
    assert_eq!(source.redis().cli(&["-n", "1", "dbsize"]), "2\n");
    between(&place, ["redis", &source.dsn()], ["redis_v0", &source.dsn()]).expect_plain(&source, 1);
    let texts = Texts::new();
    let mut all = before;
    all.extend(texts.showing(&[(&digest(1), Record::full(5))], "UTC"));
    source.expect(&all);
    // The command that the Python server recommends.
    source.redis().cli(&["del", &source.key(&digest(1))]);
    let dsn = source.dsn();
    let options = ["--delete", "--se=redis_v0", "--sd", &dsn, "--de=redis", "--dd", &dsn];
    let summary = place.run(&options).migrated();
    assert_eq!((summary.complete, summary.deleted), (Some((1, 0)), 1));
    source.expect(&source.showing(&[(&digest(1), Record::full(5))], "UTC"));
}

#[test]
fn one_table_by_socket_and_by_tcp_is_refused() {
    let (source, place) = (MySql::new(), Place::new());
    let before = planted(&source);
    let (name, port) = (source.name(), source.mariadb().port());
    let socket = source.mariadb().socket().display().to_string();
    let login = format!("{name},{PASSWORD},{name}");
    for to in [
        source.dsn(),
        format!("127.0.0.1:{port},{login},digests"),
        format!("localhost:{port},{login},digests"),
        format!("{socket},{login},digests"),
        format!("mysql://{name}:{PASSWORD}@localhost/{name}/digests?socket={socket}"),
        format!("127.0.0.1:{port},{login},{name}.digests"),
    ] {
        between(&place, ["mysql", &source.dsn()], ["mysql", &to]).expect_refusal(&["same"]);
        between(&place, ["mysql", &to], ["mysql", &source.dsn()]).expect_refusal(&["same"]);
    }
    source.expect(&before);
    let other = format!("127.0.0.1:{port},{login},others");
    between(&place, ["mysql", &source.dsn()], ["mysql", &other]).expect_plain(&source, 1);
    assert_eq!(source.sql("SELECT r_count, wl_count FROM others"), "5\t6\n");
}

#[test]
fn file_in_use_is_refused_with_the_pid_of_the_server() {
    let (used, free, place) = (Gdbm::new(), Gdbm::new(), Place::new());
    planted(&used);
    planted(&free);
    let server = used.home().clone().config("CleanupAge = 0\n").start();
    let pid = format!("process {}", server.pid());
    for options in [&[][..], &["--delete"], &["--dry-run"], &["--verify-only"]] {
        let texts = ["pyzord.db", "in use", &pid, "stop "];
        place.migrate(&used, &free, options).expect_refusal(&texts);
    }
    place.migrate(&free, &used, &[]).expect_refusal(&["in use", &pid, "stop "]);
    assert!(server.stop().success());
    place.migrate(&used, &free, &[]).expect_plain(&free, 1);
}

#[test]
fn inaccessible_file_is_refused() {
    let (source, destination) = (Gdbm::new(), Gdbm::new());
    let before = planted(&source);
    let there = planted(&destination);
    let place = Place::new().unprivileged();
    for (side, mode) in [(&source, 0o600), (&destination, 0o644)] {
        let directory = side.home().directory();
        // A directory in the path is not accessible.
        for directory in [directory.parent().unwrap(), &directory] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(side.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
    if place.user.is_none() {
        fs::set_permissions(source.path(), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let finished = between(&place, ["gdbm", &source.dsn()], ["gdbm", "new.db"]);
    finished.expect_refusal(&["pyzord.db", "ermission denied"]);
    assert!(!place.work().join("new.db").exists());

    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o644)).unwrap();
    if place.user.is_none() {
        fs::set_permissions(destination.path(), fs::Permissions::from_mode(0o444)).unwrap();
    }
    place.migrate(&source, &destination, &[]).expect_refusal(&["pyzord.db", "ermission denied"]);
    // Records cannot be deleted from a read-only file.
    if place.user.is_some() {
        let ends = ["--se=gdbm", "--sd", &source.dsn(), "--de=gdbm", "--dd=new.db", "--delete"];
        place.run(&ends).expect_refusal(&["pyzord.db", "ermission denied"]);
    }
    assert_eq!((source.all(), destination.all()), (before, there));
    // Read access is enough for a copy.
    fs::set_permissions(source.path(), fs::Permissions::from_mode(0o444)).unwrap();
    between(&place, ["gdbm", &source.dsn()], ["gdbm", "copy.db"]).expect_plain(&source, 1);
}

#[test]
fn read_only_directory_is_refused() {
    let source = Gdbm::new();
    planted(&source);
    let place = Place::new().unprivileged();
    let copy = place.work().join("from.db");
    fs::copy(source.path(), &copy).unwrap();
    if let Some(user) = place.user {
        chown(&copy, Some(user), Some(user)).unwrap();
    }
    fs::set_permissions(place.work(), fs::Permissions::from_mode(0o555)).unwrap();
    between(&place, ["gdbm", "from.db"], ["gdbm", "new.db"]).expect_refusal(&["new.db", "ermission denied"]);
    fs::set_permissions(place.work(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_dir(place.work()).unwrap().count(), 1);
}

#[test]
fn refused_login_is_reported_without_the_password() {
    let (place, gdbm) = (Place::new(), Gdbm::new());
    let before = planted(&gdbm);
    let (redis, mysql) = (Hashes::new(), MySql::new());
    let (name, redis_port, mysql_port) = (mysql.name(), redis.redis().port(), mysql.mariadb().port());
    for (engine, dsn) in [
        ("redis", format!("127.0.0.1,{redis_port},{PASSWORD}x,0")),
        ("redis", format!("redis://nobody:{PASSWORD}@127.0.0.1:{redis_port}/0")),
        ("redis_v0", format!("127.0.0.1,{redis_port},,0")),
        ("redis", format!("127.0.0.1,{redis_port},{PASSWORD},4711")),
        ("mysql", format!("127.0.0.1:{mysql_port},{name},{PASSWORD}x,{name},digests")),
        ("mysql", format!("127.0.0.1:{mysql_port},nobody,{PASSWORD},{name},digests")),
        ("mysql", format!("127.0.0.1:{mysql_port},{name},{PASSWORD},elsewhere,digests")),
        ("mysql", format!("mysql://{name}:{PASSWORD}%21@127.0.0.1:{mysql_port}/{name}/digests")),
    ] {
        for mut finished in [
            between(&place, [engine, &dsn], ["gdbm", "new.db"]),
            between(&place, ["gdbm", &gdbm.dsn()], [engine, &dsn]),
        ] {
            // Redis accepts the connection and then refuses every command.
            let incomplete = "Migration incomplete, 0 records transferred successfully, 0 records failed\n";
            finished.stdout = finished.stdout.replace(incomplete, "");
            finished.expect_refusal(&[]);
        }
    }
    gdbm.expect(&before);
}

#[test]
fn unavailable_server_is_reported_without_the_password() {
    let (place, gdbm, nobody) = (Place::new(), Gdbm::new(), free_port());
    let before = planted(&gdbm);
    let dsns = [
        ("redis", format!("127.0.0.1,{nobody},{PASSWORD},0")),
        ("redis_v0", format!("redis://user:{PASSWORD}@127.0.0.1:{nobody}/0")),
        ("redis", format!("/no/such/socket,,{PASSWORD},0")),
        ("redis", format!("redis+cluster://:{PASSWORD}@127.0.0.1:{nobody}")),
        ("redis", format!("redis+sentinel://:{PASSWORD}@127.0.0.1:{nobody}/counts")),
        ("mysql", format!("127.0.0.1:{nobody},pyzor,{PASSWORD},pyzor,digests")),
        ("mysql", format!("/no/such/socket,pyzor,{PASSWORD},pyzor,digests")),
    ];
    // In parallel, because each may wait for a time limit.
    thread::scope(|scope| {
        for (engine, dsn) in &dsns {
            let (place, path) = (&place, gdbm.dsn());
            let expect_error = |finished: Finished| {
                let (waiting, last) =
                    finished.stderr.trim_end().rsplit_once('\n').unwrap_or(("", &finished.stderr));
                let is_reported = last.starts_with("pyzor-migrate: error: ") && finished.stdout.is_empty();
                let is_warning = |line: &str| line.starts_with("pyzor-migrate: warning: ");
                let is_reported = is_reported && waiting.lines().all(is_warning);
                assert!(finished.code == Some(1) && is_reported, "{finished:?}");
            };
            scope.spawn(move || expect_error(between(place, [engine, dsn], ["gdbm", "new.db"])));
            // One run at a time may open the file.
            let copy = place.work().join(format!("{}.db", dsn.len()));
            fs::copy(&path, &copy).unwrap();
            scope.spawn(move || {
                expect_error(between(place, ["gdbm", &copy.display().to_string()], [engine, dsn]));
            });
        }
    });
    assert!(!place.work().join("new.db").exists());
    gdbm.expect(&before);
}

#[test]
fn read_only_replica_is_only_a_source_of_copies() {
    let (master, place) = (Hashes::new(), Place::new());
    let before = planted(&master);
    let port = master.redis().port();
    let replica = Redis::with(
        &format!("--replicaof 127.0.0.1 {port} --masterauth {PASSWORD} --requirepass {PASSWORD}"),
        &["--no-auth-warning", "-a", PASSWORD],
    );
    crate::harness::eventually("the replica to have everything", || {
        (replica.cli(&["dbsize"]) == "1\n").then_some(())
    });
    let dsn = format!("127.0.0.1,{},{PASSWORD},0", replica.port());
    let destination = Gdbm::new();
    between(&place, ["redis", &dsn], ["gdbm", &destination.dsn()]).expect_plain(&destination, 1);
    destination.expect(&destination.showing(&[(&digest(1), Record::full(5))], "UTC"));
    // A read-only replica can be neither the source of a move nor a destination.
    let other = Gdbm::new();
    let ends = ["--se=redis", "--sd", &dsn, "--de=gdbm", "--dd", &other.dsn(), "--delete"];
    let finished = place.run(&ends);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("deleted"), "{finished:?}");
    let finished = between(&place, ["gdbm", &destination.dsn()], ["redis", &dsn]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("1 records transferred"), "{finished:?}");
    master.expect(&before);
}

#[test]
fn read_only_mysql_account_is_enough_for_a_source() {
    let (source, destination, place) = (MySql::new(), Gdbm::new(), Place::new());
    let before = planted(&source);
    let reader = format!("{}_reader", source.name());
    source.sql(&format!(
        "CREATE USER {reader} IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON {}.digests TO {reader}",
        source.name()
    ));
    let dsn = source.url_of(&reader);
    for options in [&["--dry-run"][..], &[], &["--verify-only"]] {
        let ends = ["--se=mysql", "--sd", &dsn, "--de=gdbm", "--dd", &destination.dsn()];
        let finished = place.run(&[&ends[..], options].concat());
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    }
    destination.expect(&destination.showing(&[(&digest(1), Record::full(5))], "UTC"));
    // The account can neither delete nor store.
    let ends = ["--se=mysql", "--sd", &dsn, "--de=gdbm", "--dd=new.db", "--delete"];
    let finished = place.run(&ends);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("deleted from"), "{finished:?}");
    destination.plant(&[(&digest(2), Record::full(5))], "UTC");
    let finished = between(&place, ["gdbm", &destination.dsn()], ["mysql", &dsn]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    source.expect(&before);
}

#[test]
fn read_only_redis_account_is_enough_for_a_source() {
    let (hashes, texts, place) = (Hashes::new(), Texts::new(), Place::new());
    for (source, redis) in [(&hashes as &dyn Side, hashes.redis()), (&texts, texts.redis())] {
        let before = planted(source);
        let password = format!(">{PASSWORD}");
        let rights = ["+@read", "+@connection", "+info"];
        let rule = [&["acl", "setuser", "reader", "on", &password, "~pyzord.*", "-@all"], &rights[..]];
        assert_eq!(redis.cli(&rule.concat()), "OK\n");
        let destination = Gdbm::new();
        let dsn = format!("redis://reader:{PASSWORD}@127.0.0.1:{}/0", redis.port());
        between(&place, [source.engine(), &dsn], ["gdbm", &destination.dsn()]).expect_plain(&destination, 1);
        destination.expect(&destination.showing(&[(&digest(1), Record::full(5))], "UTC"));
        let finished = between(&place, ["gdbm", &destination.dsn()], [source.engine(), &dsn]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        source.expect(&before);
    }
}

#[test]
fn table_with_other_columns_is_refused() {
    let place = Place::new();
    let gdbm = Gdbm::new();
    planted(&gdbm);
    let narrow = MySql::table(&COLUMNS.replace("char(40)", "char(39)"), 1);
    let lacking = MySql::table(&COLUMNS.replace("`wl_updated` datetime default NULL, ", ""), 1);
    let keyless = MySql::table(&COLUMNS.replace(", PRIMARY KEY (`digest`)", ""), 1);
    for (side, text) in [(narrow, "digest"), (lacking, "wl_updated"), (keyless, "PRIMARY KEY")] {
        place.migrate(&gdbm, &side, &[]).expect_refusal(&[text]);
        assert_eq!(side.sql("SELECT COUNT(*) FROM digests"), "0\n");
    }
}

#[test]
fn table_that_would_miscount_is_only_a_source() {
    let place = Place::new();
    for (from, to, why) in [
        ("PRIMARY KEY", "note varchar(9) NOT NULL default '', UNIQUE (note), PRIMARY KEY", "unique index"),
        ("`r_count` int(11)", "`r_count` decimal(9,0)", "r_count"),
        ("`r_count` int(11)", "`r_count` varchar(9)", "r_count"),
    ] {
        assert!(COLUMNS.contains(from));
        let table = || MySql::table(&COLUMNS.replace(from, to), i32::MAX.into());
        let (source, destination) = (Gdbm::new(), table());
        let before = planted(&source);
        place.migrate(&source, &destination, &[]).expect_refusal(&["digests", why]);
        assert!(destination.sql("SELECT * FROM digests").is_empty());
        source.expect(&before);

        let source = table();
        planted(&source);
        for options in [&[][..], &["--delete"]] {
            let destination = Gdbm::absent();
            let finished = place.migrate(&source, &destination, options);
            assert_eq!(finished.code, Some(0), "{to}: {finished:?}");
            destination.expect_when(to, &[(digest(1), destination.shows(&Record::full(5), "UTC"))].into());
        }
        assert!(source.sql("SELECT * FROM digests").is_empty(), "{to}");
    }
}
