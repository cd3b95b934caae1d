//! TLS connections.

use std::path::PathBuf;
use std::sync::Arc;

use super::refused;
use crate::engines::Store;
use crate::engines::mysql::MySql;
use crate::engines::mysql::PASSWORD;
use crate::engines::mysql::addresses::counts;
use crate::harness::{Certificate, MariaDb};

#[test]
fn server_with_certificate_of_the_authority_is_accepted() {
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
    // The system's certificates do not include our test authority.
    refused(&home("tls=yes"), &["certificate"]);
    refused(&home("tls=no"), &["Access denied"]);
    refused(&home("ca=/nowhere.pem"), &["/nowhere.pem"]);
    // The certificate is only for 127.0.0.1.
    let elsewhere = |parameters: &str| {
        let dsn = format!("mysql://{name}:{PASSWORD}@127.0.0.2:{port}/{name}/digests?{parameters}");
        store.home_at(&dsn, "")
    };
    refused(&elsewhere(&format!("ca={authority}")), &["certificate is for another name", "subjectAltName"]);
    counts(&elsewhere("verify=no"), 6);
}

#[test]
fn certificate_listed_in_ca_is_accepted() {
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
        // The name must still match, and a different certificate with the same names is refused.
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
fn issued_certificate_is_accepted_if_ca_also_lists_another_for_the_host() {
    let (issued, other) = (Certificate::new(), Certificate::of_itself(true));
    let options = format!("--ssl-cert={} --ssl-key={}", issued.server().display(), issued.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let authority = issued.authority_and(&other);
    counts(&store.home_at(&store.url(&format!("{}/digests?ca={}", store.name, authority.display())), ""), 1);
}

#[test]
fn verify_no_works_without_system_certificates() {
    let certificate = Certificate::new();
    let options =
        format!("--ssl-cert={} --ssl-key={}", certificate.server().display(), certificate.key().display());
    let store = MySql::within(Arc::new(MariaDb::with(&options)));
    let home = store.home_at(&store.url(&format!("{}/digests?verify=no", store.name)), "");
    counts(&home.environment("SSL_CERT_FILE", "/nonexistent.pem"), 1);
}

#[test]
fn ca_file_without_certificates_is_refused() {
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
fn server_without_tls_is_refused_if_tls_is_requested() {
    let store = MySql::new();
    for parameters in ["tls=yes", "verify=no"] {
        refused(&store.home_at(&store.url(&format!("{}/digests?{parameters}", store.name)), ""), &["MySQL"]);
    }
}
