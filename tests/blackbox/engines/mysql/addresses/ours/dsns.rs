//! The forms of `DigestDB`, and the messages about wrong ones.

use super::refused;
use crate::engines::Store;
use crate::engines::mysql::addresses::counts;
use crate::engines::mysql::{COLUMNS, MySql, PASSWORD};

#[test]
fn missing_table_is_created_as_in_the_manual() {
    let store = MySql::bare();
    counts(&store.home(""), 1);
    store.sql(&format!("CREATE TABLE manual ({COLUMNS})"));
    assert_eq!(store.sql("SHOW COLUMNS FROM digests"), store.sql("SHOW COLUMNS FROM manual"));
    counts(&store.home(""), 2);
}

#[test]
fn without_create_privilege_the_statement_is_printed_and_four_privileges_suffice() {
    let store = MySql::bare();
    let name = &store.name;
    store.sql(&format!(
        "REVOKE ALL ON {name}.* FROM {name}; GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}"
    ));
    let line = refused(&store.home(""), &["denied"]);
    let statement = &line[line.find("CREATE TABLE").expect(&line)..];
    store.sql(statement);
    store.sql(&format!("CREATE TABLE manual ({COLUMNS})"));
    assert_eq!(store.sql("SHOW COLUMNS FROM digests"), store.sql("SHOW COLUMNS FROM manual"));
    counts(&store.home(""), 1);
}

#[test]
fn refused_login_is_one_line_without_the_password() {
    let store = MySql::new();
    let (name, port) = (&store.name, store.mariadb.port());
    let dsns = [
        (format!("127.0.0.1:{port},{name},{PASSWORD}x,{name},digests"), "Access denied"),
        (format!("127.0.0.1:{port},{name},,{name},digests"), "Access denied"),
        (format!("127.0.0.1:{port},nobody,{PASSWORD},{name},digests"), "Access denied"),
        // Without privileges an unknown database gets the same error as an existing one.
        (format!("127.0.0.1:{port},{name},{PASSWORD},elsewhere,digests"), "Access denied"),
        (format!("mysql://{name}:{PASSWORD}%21@127.0.0.1:{port}/{name}/digests"), "Access denied"),
    ];
    for (dsn, text) in dsns {
        refused(&store.home_at(&dsn, ""), &["MySQL", text]);
    }
    let everything = "everything_allowed";
    store.sql(&format!("GRANT ALL ON *.* TO {everything} IDENTIFIED BY '{PASSWORD}'"));
    let dsn = format!("127.0.0.1:{port},{everything},{PASSWORD},elsewhere,digests");
    refused(&store.home_at(&dsn, ""), &["Unknown database", "elsewhere"]);
}

#[test]
fn malformed_dsn_is_one_line_without_the_password() {
    let store = MySql::bare();
    for dsn in [
        format!("localhost,pyzor,{PASSWORD},pyzor"),
        format!("localhost,pyzor,{PASSWORD},pyzor,digests,more"),
        format!("localhost,pyzor,{PASSWORD},pyzor,"),
        format!("localhost:port,pyzor,{PASSWORD},pyzor,digests"),
        format!("mysql://pyzor:{PASSWORD}@localhost/pyzor"),
        format!("mysql://pyzor:{PASSWORD}@localhost/pyzor/digests?{PASSWORD}=1"),
        format!("postgres://pyzor:{PASSWORD}@localhost/pyzor/digests"),
    ] {
        refused(&store.home_at(&dsn, ""), &["DigestDB"]);
    }
}

#[test]
fn every_form_of_dsn_reaches_the_table() {
    let store = MySql::new();
    let (name, port, socket) = (&store.name, store.mariadb.port(), store.mariadb.socket());
    let (socket, login) = (socket.display(), format!("{name},{PASSWORD},{name},digests"));
    let encoded = socket.to_string().replace('/', "%2F");
    let dsns = [
        format!("127.0.0.1:{port},{login}"),
        format!("localhost:{port},{login}"),
        format!("{socket},{login}"),
        store.url(&format!("{name}/digests")),
        store.url(&format!("{name}/digests?tls=no")),
        format!("mysql://{name}:{PASSWORD}@localhost:{port}/{name}/digests"),
        format!("mysql://{name}:{PASSWORD}@localhost/{name}/digests?socket={socket}"),
        format!("mysql://{name}:{PASSWORD}@/{name}/digests?socket={encoded}"),
    ];
    for (at, dsn) in dsns.iter().enumerate() {
        // Python's configuration parser needs the % of a URL doubled.
        counts(&store.home_at(&dsn.replace('%', "%%"), ""), i64::try_from(at).unwrap() + 1);
    }
    // MySQL's client library reads this variable.
    let by_port = store.home_at(&format!("127.0.0.1,{login}"), "");
    counts(&by_port.environment("MYSQL_TCP_PORT", port.to_string()), 9);
    counts(&store.home(""), 10);
}

#[test]
fn url_accepts_any_password_and_name() {
    let store = MySql::bare();
    let port = store.mariadb.port();
    store.sql(
        "CREATE DATABASE `dash-and/slash`; CREATE USER 'me@here:x' IDENTIFIED BY 'p,w/@:%?#&=ä'; \
         GRANT ALL ON `dash-and/slash`.* TO 'me@here:x'",
    );
    let dsn = format!(
        "mysql://me%40here%3Ax:p%2Cw%2F%40%3A%25%3F%23%26%3D%C3%A4@127.0.0.1:{port}/dash-and%2Fslash/a%20table"
    );
    counts(&store.home_at(&dsn.replace('%', "%%"), ""), 1);
    // Python's configuration parser rejects a single %; ours accepts it.
    counts(&store.home_at(&dsn, ""), 2);
    assert_eq!(store.mariadb.sql("SELECT r_count FROM `dash-and/slash`.`a table`"), "2\n");
}

#[test]
fn names_that_need_quotes_are_quoted() {
    let store = MySql::bare();
    let (name, port) = (&store.name, store.mariadb.port());
    let (dashed, other) = (format!("{name}-dashed"), format!("{name}_other"));
    for database in [&dashed, &other] {
        store.sql(&format!("CREATE DATABASE `{database}`; GRANT ALL ON `{database}`.* TO {name}"));
    }
    for (database, table, found) in [
        (name, "my-table", format!("`{name}`.`my-table`")),
        (name, "back`tick", format!("`{name}`.`back``tick`")),
        (name, "`back``ticks`", format!("`{name}`.`back``ticks`")),
        (name, "`a.dot`", format!("`{name}`.`a.dot`")),
        (name, "order", format!("`{name}`.`order`")),
        (name, "select 1; --", format!("`{name}`.`select 1; --`")),
        (&dashed, "digests", format!("`{dashed}`.`digests`")),
        (name, &format!("{other}.digests"), format!("`{other}`.`digests`")),
        (name, &format!("`{dashed}`.`x-y`"), format!("`{dashed}`.`x-y`")),
    ] {
        let dsn = format!("127.0.0.1:{port},{name},{PASSWORD},{database},{table}");
        // The first start creates the table, the second finds it.
        counts(&store.home_at(&dsn, ""), 1);
        counts(&store.home_at(&dsn, ""), 2);
        assert_eq!(store.mariadb.sql(&format!("SELECT r_count FROM {found}")), "2\n");
    }
}

#[test]
fn unsuitable_table_is_refused_with_the_reason() {
    let store = MySql::bare()
        .table("digest char(40), r_count int, wl_count int, r_entered datetime, r_updated datetime");
    refused(&store.home(""), &["wl_entered"]);
    store.sql("ALTER TABLE digests ADD wl_entered datetime, ADD wl_updated datetime");
    let line = refused(&store.home(""), &["several rows"]);
    store.sql(&line[line.find("ALTER TABLE").expect(&line)..]);
    counts(&store.home(""), 1);
}
