//! Logins with the authentication methods of MySQL 8.

use crate::engines::done;
use crate::harness::mysql8::{Manner, MySql8, PASSWORD, USER};
use crate::harness::{DIGEST, Home};

/// A homedir whose `DigestDB` is a URL with this password and `rest` after the `@`.
fn home(rest: &str, password: &str) -> Home {
    let password = password.replace(',', "%2C").replace(' ', "%20");
    Home::open().config(&format!("Engine = mysql\nDigestDB = mysql://{USER}:{password}@{rest}\n"))
}

/// Counts through the peer, and returns by which methods the server logged in.
fn counted(peer: &MySql8, home: &Home) -> [bool; 3] {
    let server = home.start();
    for _ in 0..3 {
        done(&server, "report", DIGEST);
    }
    assert_eq!(done(&server, "check", DIGEST).counts(), (3, 0));
    assert!(server.stop().success());
    assert_eq!(peer.mariadb().sql("SELECT r_count FROM pyzor.digests"), "3\n");
    assert!(!home.everything_said().contains("secret"));
    peer.ways()
}

#[test]
fn cached_account_logs_in_without_its_password() {
    for switches in [false, true] {
        let peer = MySql8::start(Manner { is_cached: true, switches, ..Manner::default() });
        let home = home(&format!("127.0.0.1:{}/pyzor/digests", peer.port()), PASSWORD);
        assert_eq!(counted(&peer, &home), [true, false, false]);
    }
}

#[test]
fn password_is_encrypted_over_plain_tcp() {
    for switches in [false, true] {
        let peer = MySql8::start(Manner { switches, ..Manner::default() });
        let home = home(&format!("127.0.0.1:{}/pyzor/digests", peer.port()), PASSWORD);
        assert_eq!(counted(&peer, &home), [false, true, false]);
    }
}

#[test]
fn password_is_sent_plain_over_socket_or_tls() {
    let peer = MySql8::start(Manner::default());
    let socket = format!("/pyzor/digests?socket={}", peer.socket().display());
    assert_eq!(counted(&peer, &home(&socket, PASSWORD)), [false, false, true]);
    let peer = MySql8::start(Manner { tls: true, ..Manner::default() });
    let encrypted = format!("127.0.0.1:{}/pyzor/digests?ca={}", peer.port(), peer.authority().display());
    assert_eq!(counted(&peer, &home(&encrypted, PASSWORD)), [false, false, true]);
}

#[test]
fn wrong_password_is_refused_in_one_line() {
    for is_cached in [false, true] {
        let peer = MySql8::start(Manner { is_cached, ..Manner::default() });
        let home = home(&format!("127.0.0.1:{}/pyzor/digests", peer.port()), "secret, but another");
        assert_eq!(home.try_start().err().expect("a server").code(), Some(1));
        let stderr = home.stderr();
        assert!(stderr.lines().count() == 1 && stderr.contains("Access denied"), "{stderr}");
        assert!(!home.everything_said().contains("secret"));
    }
}
