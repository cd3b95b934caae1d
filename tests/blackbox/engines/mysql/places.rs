//! The ways to a table: `DigestDB`, accounts, encryption, and what a start that fails says.

use std::path::PathBuf;
use std::sync::Arc;

use super::{COLUMNS, MySql, PASSWORD};
use crate::engines::{Store, done};
use crate::harness::{Certificate, DIGEST, Home, MariaDb, ours_only};

/// Starts a server that must end with exit code 1 and one line, with these texts in it and no password;
/// returns the line.
#[track_caller]
fn refused(home: &Home, texts: &[&str]) -> String {
    let Err(status) = home.try_start() else { panic!("it serves") };
    let line = home.stderr();
    let whole = line.ends_with('\n') && line.lines().count() == 1;
    let all = texts.iter().all(|text| line.contains(text));
    assert!(status.code() == Some(1) && whole && all, "{status}, expected one line with {texts:?}: {line}");
    assert!(!home.everything_said().contains(PASSWORD), "{}", home.everything_said());
    line
}

/// Starts a server that must count one more report.
#[track_caller]
fn counts(home: &Home, expected: i64) {
    let server = home.start();
    done(&server, "report", DIGEST);
    assert_eq!(done(&server, "check", DIGEST).counts(), (expected, 0));
    assert!(server.stop().success());
    assert!(!home.everything_said().contains(PASSWORD), "{}", home.everything_said());
}

#[test]
fn a_missing_table_is_created_as_the_manual_has_it() {
    if !ours_only() {
        return;
    }
    let store = MySql::bare();
    counts(&store.home(""), 1);
    store.sql(&format!("CREATE TABLE manual ({COLUMNS})"));
    assert_eq!(store.sql("SHOW COLUMNS FROM digests"), store.sql("SHOW COLUMNS FROM manual"));
    counts(&store.home(""), 2);
}

#[test]
fn who_may_not_create_the_table_is_told_the_statement_and_needs_no_more_than_four_rights() {
    if !ours_only() {
        return;
    }
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
fn a_refused_login_is_one_line_without_the_password() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    let (name, port) = (&store.name, store.mariadb.port());
    let dsns = [
        (format!("127.0.0.1:{port},{name},{PASSWORD}x,{name},digests"), "Access denied"),
        (format!("127.0.0.1:{port},{name},,{name},digests"), "Access denied"),
        (format!("127.0.0.1:{port},nobody,{PASSWORD},{name},digests"), "Access denied"),
        // To who may not see it an unknown database is like another's.
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
fn a_dsn_that_cannot_be_read_is_one_line_without_the_password() {
    if !ours_only() {
        return;
    }
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
fn each_form_of_the_dsn_leads_to_the_table() {
    if !ours_only() {
        return;
    }
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
        // A lone % is itself, but those of a URL are two to Python's parser of files.
        counts(&store.home_at(&dsn.replace('%', "%%"), ""), i64::try_from(at).unwrap() + 1);
    }
    // What the library of the established server looks at.
    let by_port = store.home_at(&format!("127.0.0.1,{login}"), "");
    counts(&by_port.environment("MYSQL_TCP_PORT", port.to_string()), 9);
    counts(&store.home(""), 10);
}

#[test]
fn a_url_takes_any_password_and_any_name() {
    if !ours_only() {
        return;
    }
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
    // Python's parser takes a % that it cannot understand for an error; ours for itself.
    counts(&store.home_at(&dsn, ""), 2);
    assert_eq!(store.mariadb.sql("SELECT r_count FROM `dash-and/slash`.`a table`"), "2\n");
}

#[test]
fn names_that_need_quotes_are_quoted() {
    if !ours_only() {
        return;
    }
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
fn the_table_of_another_database_is_found() {
    // What the established server pastes into its statements, and ours takes apart.
    let store = MySql::new();
    let other = MySql::bare();
    store.sql(&format!("GRANT ALL ON {}.* TO {}", store.name, other.name));
    let dsn = format!("localhost,{},{PASSWORD},{},{}.digests", other.name, other.name, store.name);
    let socket = store.mariadb.socket().display().to_string();
    counts(&other.home_at(&dsn, "").environment("MYSQL_UNIX_PORT", socket), 1);
    assert_eq!(store.row("r_count", DIGEST), "1");
}

#[test]
fn a_connection_is_encrypted_to_whom_the_authority_knows() {
    if !ours_only() {
        return;
    }
    let certificate = Certificate::new();
    let options = format!(
        "--ssl-cert={} --ssl-key={} --bind-address=127.0.0.1,127.0.0.2",
        certificate.server().display(),
        certificate.key().display()
    );
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let name = &store.name;
    store.sql(&format!("ALTER USER {name} REQUIRE SSL"));
    let (authority, stranger) = (certificate.authority(), Certificate::new());
    let (authority, stranger_authority) = (authority.display(), stranger.authority());
    let (stranger, port) = (stranger_authority.display(), store.mariadb.port());
    let home = |parameters: &str| store.home_at(&store.url(&format!("{name}/digests?{parameters}")), "");
    counts(&home(&format!("ca={authority}")), 1);
    counts(&home(&format!("tls=yes&verify=yes&ca={authority}")), 2);
    counts(&home("verify=no"), 3);
    counts(&home(&format!("tls=yes&verify=no&ca={stranger}")), 4);
    let named = format!("mysql://{name}:{PASSWORD}@localhost:{port}/{name}/digests?ca={authority}");
    counts(&store.home_at(&named, ""), 5);
    refused(&home(&format!("ca={stranger}")), &["is not from an authority that is trusted", "ca="]);
    // No system trusts our authority, if it trusts any.
    refused(&home("tls=yes"), &["certificate"]);
    refused(&home("tls=no"), &["Access denied"]);
    refused(&home("ca=/nowhere.pem"), &["/nowhere.pem"]);
    // The certificate is for 127.0.0.1 alone.
    let elsewhere = |parameters: &str| {
        let dsn = format!("mysql://{name}:{PASSWORD}@127.0.0.2:{port}/{name}/digests?{parameters}");
        store.home_at(&dsn, "")
    };
    refused(&elsewhere(&format!("ca={authority}")), &["certificate is for another name", "subjectAltName"]);
    counts(&elsewhere("verify=no"), 6);
}

#[test]
fn a_certificate_that_ca_itself_contains_is_accepted() {
    if !ours_only() {
        return;
    }
    let (other, issued) = (Certificate::of_itself(true), Certificate::new());
    let certificates =
        [Certificate::of_itself(true), Certificate::of_itself_with_rsa(), Certificate::of_itself(false)];
    for (certificate, version) in certificates.iter().zip(["TLSv1.2", "TLSv1.3", "TLSv1.3"]) {
        let options = format!(
            "--ssl-cert={} --ssl-key={} --tls-version={version} --bind-address=127.0.0.1,127.0.0.2",
            certificate.server().display(),
            certificate.key().display()
        );
        let store = MySql::within(Arc::new(MariaDb::with(&options)));
        let name = &store.name;
        let home = |host: &str, authority: PathBuf| {
            let (port, authority) = (store.mariadb.port(), authority.display());
            let dsn = format!("mysql://{name}:{PASSWORD}@{host}:{port}/{name}/digests?ca={authority}");
            store.home_at(&dsn, "")
        };
        counts(&home("127.0.0.1", certificate.server()), 1);
        counts(&home("localhost", issued.authority_and(certificate)), 2);
        // The name counts all the same, and a certificate that says the same of itself is another one.
        for refused in [
            refused(&home("127.0.0.2", certificate.server()), &["subjectAltName"]),
            refused(&home("127.0.0.1", other.server()), &["ca="]),
            refused(&home("127.0.0.1", issued.authority_and(&other)), &["ca="]),
        ] {
            assert!(!refused.contains("CaUsedAsEndEntity") && !refused.contains("BadSignature"), "{refused}");
        }
    }
}

#[test]
fn a_certificate_of_an_authority_is_accepted_beside_one_for_the_same_host() {
    if !ours_only() {
        return;
    }
    let (issued, other) = (Certificate::new(), Certificate::of_itself(true));
    let options = format!("--ssl-cert={} --ssl-key={}", issued.server().display(), issued.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let authority = issued.authority_and(&other);
    counts(&store.home_at(&store.url(&format!("{}/digests?ca={}", store.name, authority.display())), ""), 1);
}

#[test]
fn any_certificate_is_accepted_on_request_where_the_system_trusts_none() {
    if !ours_only() {
        return;
    }
    let certificate = Certificate::new();
    let options =
        format!("--ssl-cert={} --ssl-key={}", certificate.server().display(), certificate.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let home = store.home_at(&store.url(&format!("{}/digests?verify=no", store.name)), "");
    counts(&home.environment("SSL_CERT_FILE", "/nonexistent.pem"), 1);
}

#[test]
fn a_file_that_has_no_certificates_is_refused() {
    if !ours_only() {
        return;
    }
    let certificate = Certificate::new();
    let options =
        format!("--ssl-cert={} --ssl-key={}", certificate.server().display(), certificate.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let other = store.mariadb.socket().with_file_name("other.pem");
    std::fs::write(&other, "no certificate\n").unwrap();
    let home = store.home_at(&store.url(&format!("{}/digests?ca={}", store.name, other.display())), "");
    let line = refused(&home, &["ca=", "PEM"]);
    assert!(!line.contains("BadEncoding") && !line.contains("Der"), "{line}");
}

#[test]
fn a_server_without_encryption_is_refused_when_it_is_asked_for() {
    if !ours_only() {
        return;
    }
    let store = MySql::new();
    for parameters in ["tls=yes", "verify=no"] {
        refused(&store.home_at(&store.url(&format!("{}/digests?{parameters}", store.name)), ""), &["MySQL"]);
    }
}

#[test]
fn a_table_that_cannot_hold_records_is_refused_with_what_is_wrong() {
    if !ours_only() {
        return;
    }
    let store = MySql::bare()
        .table("digest char(40), r_count int, wl_count int, r_entered datetime, r_updated datetime");
    refused(&store.home(""), &["wl_entered"]);
    store.sql("ALTER TABLE digests ADD wl_entered datetime, ADD wl_updated datetime");
    let line = refused(&store.home(""), &["several rows"]);
    store.sql(&line[line.find("ALTER TABLE").expect(&line)..]);
    counts(&store.home(""), 1);
}
