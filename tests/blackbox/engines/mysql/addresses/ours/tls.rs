//! Encrypted connections.

use std::path::PathBuf;
use std::sync::Arc;

use super::refused;
use crate::engines::Store;
use crate::engines::mysql::MySql;
use crate::engines::mysql::PASSWORD;
use crate::engines::mysql::addresses::counts;
use crate::harness::{Certificate, MariaDb};

#[test]
fn a_connection_is_encrypted_to_whom_the_authority_knows() {
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
    let (issued, other) = (Certificate::new(), Certificate::of_itself(true));
    let options = format!("--ssl-cert={} --ssl-key={}", issued.server().display(), issued.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let authority = issued.authority_and(&other);
    counts(&store.home_at(&store.url(&format!("{}/digests?ca={}", store.name, authority.display())), ""), 1);
}

#[test]
fn any_certificate_is_accepted_on_request_where_the_system_trusts_none() {
    let certificate = Certificate::new();
    let options =
        format!("--ssl-cert={} --ssl-key={}", certificate.server().display(), certificate.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let home = store.home_at(&store.url(&format!("{}/digests?verify=no", store.name)), "");
    counts(&home.environment("SSL_CERT_FILE", "/nonexistent.pem"), 1);
}

#[test]
fn a_file_that_has_no_certificates_is_refused() {
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
    let store = MySql::new();
    for parameters in ["tls=yes", "verify=no"] {
        refused(&store.home_at(&store.url(&format!("{}/digests?{parameters}", store.name)), ""), &["MySQL"]);
    }
}
