//! Connections to Redis through TLS.

use crate::engines::done;
use crate::engines::redis::{home, key, refusal, tls_options};
use crate::harness::{Certificate, DIGEST, Redis, free_port};

#[test]
fn redis_is_used_through_tls() {
    let certificate = Certificate::new();
    let port = free_port();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (authority, other) = (path(certificate.authority()), Certificate::new());
    let redis = Redis::at(port, &tls_options(&certificate, port), &["--tls", "--cacert", &authority]);
    let server = format!("127.0.0.1:{port}");
    for dsn in [
        format!("rediss://{server}/0?ca={authority}"),
        format!("rediss://localhost:{port}/0?ca={authority}"),
        format!("rediss://{server}/0?verify=no"),
    ] {
        done(&home(&dsn, "").start(), "report", DIGEST);
    }
    assert_eq!(redis.cli(&["hget", &key(DIGEST), "r_count"]), "3\n");
    for dsn in [
        format!("rediss://{server}/0?ca={}", path(other.authority())),
        format!("rediss://{server}/0"),
        format!("rediss://{server}/0?ca=/nonexistent.pem"),
    ] {
        let line = refusal(&home(&dsn, ""));
        assert!(line.contains("certificate") && line.contains(&port.to_string()), "{line}");
    }
}

#[test]
fn certificate_that_ca_names_itself_is_accepted() {
    let (other, issued) = (Certificate::of_itself(true), Certificate::new());
    let certificates =
        [Certificate::of_itself(true), Certificate::of_itself_with_rsa(), Certificate::of_itself(false)];
    for (certificate, version) in certificates.iter().zip(["TLSv1.2", "TLSv1.3", "TLSv1.3"]) {
        let port = free_port();
        let path = |path: std::path::PathBuf| path.display().to_string();
        let own = path(certificate.server());
        let options = format!(
            "--port 0 --tls-port {port} --tls-auth-clients no --tls-protocols {version} --tls-cert-file {own} \
             --tls-key-file {} --bind 127.0.0.1 127.0.0.2",
            path(certificate.key()),
        );
        let _redis = Redis::at(port, &options, &["--tls", "--cacert", &own]);
        let home = |host: &str, authority: std::path::PathBuf| {
            home(&format!("rediss://{host}:{port}/0?ca={}", authority.display()), "")
        };
        done(&home("127.0.0.1", certificate.server()).start(), "report", DIGEST);
        done(&home("localhost", issued.authority_and(certificate)).start(), "report", DIGEST);
        // The host name must still match, and another certificate with the same subject is not accepted.
        for (wrong, word) in [
            (home("127.0.0.2", certificate.server()), "subjectAltName"),
            (home("127.0.0.1", other.server()), "ca="),
            (home("127.0.0.1", issued.authority_and(&other)), "ca="),
        ] {
            let line = refusal(&wrong);
            assert!(line.contains(word) && line.contains(&port.to_string()), "{line}");
            assert!(!line.contains("CaUsedAsEndEntity") && !line.contains("BadSignature"), "{line}");
        }
    }
}

#[test]
fn tls_errors_name_the_cause() {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    for (parameters, words) in [
        ("verify=no".to_owned(), "does not answer in TLS"),
        (format!("ca={}", file.path().display()), "has no certificates"),
    ] {
        let line = refusal(&home(&format!("rediss://127.0.0.1:{}/0?{parameters}", redis.port()), ""));
        assert!(line.contains(words), "{line}");
    }
    let line = refusal(&home(&format!("rediss://a..b:{}/0?verify=no", redis.port()), ""));
    assert!(line.contains("a certificate cannot have this host name"), "{line}");
}

/// Redis requires client certificates by default.
#[test]
fn server_that_requires_client_certificates_is_refused_with_the_cause() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (certificate, port) = (Certificate::of_itself(true), free_port());
        let (own, private) = (certificate.server().display().to_string(), certificate.key());
        let private = private.display();
        let options = format!(
            "--port 0 --tls-port {port} --tls-protocols {version} --tls-cert-file {own} --tls-key-file {private} \
             --tls-ca-cert-file {own}"
        );
        let client = ["--tls", "--cacert", &own, "--cert", &own, "--key", &private.to_string()];
        let _redis = Redis::at(port, &options, &client);
        let line = refusal(&home(&format!("rediss://127.0.0.1:{port}/0?ca={own}"), ""));
        assert!(line.contains("requires client certificates"), "{line}");
    }
}
