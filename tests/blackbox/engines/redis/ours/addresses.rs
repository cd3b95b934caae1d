//! The forms of `DigestDB` for Redis.

use crate::engines::done;
use crate::engines::redis::{RIGHTS, RIGHTS_V0, home, key, refusal};
use crate::harness::{DIGEST, Home, Redis};

#[test]
fn every_form_of_digestdb_is_accepted() {
    let redis = Redis::with("--requirepass secret", &["-a", "secret", "--no-auth-warning"]);
    let (port, socket) = (redis.port(), redis.socket().display().to_string());
    redis.cli(&["acl", "setuser", "counter", "on", ">secret,2"]);
    for right in format!("{RIGHTS} {RIGHTS_V0}").split(' ') {
        redis.cli(&["acl", "setuser", "counter", right]);
    }
    let forms = [
        (format!("127.0.0.1,{port},secret,1"), 1),
        (format!("{socket},,secret,2"), 2),
        (format!("127.0.0.1,{port},secret,3,default"), 3),
        (format!("redis://:secret@127.0.0.1:{port}/4"), 4),
        (format!("redis://counter:secret%2C2@127.0.0.1:{port}/5"), 5),
        (format!("redis+unix://{socket}?db=6&user=counter&password=secret%2C2"), 6),
        (format!("unix://{socket}?password=secret"), 0),
    ];
    for (dsn, database) in forms {
        let home = home(&dsn, "CleanupAge = 0\n");
        let server = home.start();
        done(&server, "report", DIGEST);
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "info", DIGEST).counts(), (2, 0));
        assert!(server.stop().success());
        let stored = redis.cli(&["-n", &database.to_string(), "hget", &key(DIGEST), "r_count"]);
        assert_eq!(stored, "2\n", "{dsn}");
        assert!(!home.everything_said().contains("secret"), "{dsn}");
    }
    let texts = Home::open()
        .config(&format!("Engine = redis_v0\nDigestDB = redis://counter:secret%2C2@127.0.0.1:{port}/7\n"));
    done(&texts.start(), "whitelist", DIGEST);
    let unlocked = Redis::start();
    let open = unlocked.port();
    for (wrong, port, why) in [
        (format!("127.0.0.1,{port},secretive,0"), port, "password"),
        (format!("127.0.0.1,{port},,0"), port, "noauth"),
        (format!("127.0.0.1,{port},secret,99"), port, "out of range"),
        (format!("127.0.0.1,{port},secretive,99"), port, "password"),
        (format!("127.0.0.1,{open},unasked,99"), open, "out of range"),
        (format!("redis://nobody:secret@127.0.0.1:{port}/0"), port, "password"),
        (format!("redis+cluster://:secret@127.0.0.1:{port}"), port, "redis://"),
    ] {
        let line = refusal(&home(&wrong, ""));
        assert!(line.contains(&port.to_string()) && line.to_lowercase().contains(why), "{wrong}: {line}");
    }
}

#[test]
fn url_with_two_values_for_one_setting_is_refused() {
    let redis = Redis::start();
    let port = redis.port();
    for (parts, what) in [
        (format!("127.0.0.1:{port}/0?db=1"), "db"),
        (format!("one@127.0.0.1:{port}/?user=other&password=x"), "user"),
        (format!(":secret@127.0.0.1:{port}/?password=secret2"), "password"),
    ] {
        let line = refusal(&home(&format!("redis://{parts}"), ""));
        assert!(line.contains(&format!("two values of {what}")), "{line}");
    }
    done(&home(&format!("redis://127.0.0.1:{port}/1?db=1"), "").start(), "report", DIGEST);
    assert_eq!(redis.cli(&["-n", "1", "hget", &key(DIGEST), "r_count"]), "1\n");
}

#[test]
fn unneeded_password_is_ignored() {
    // As the Python server does with versions of its library newer than Debian's.
    let redis = Redis::start();
    let server = home(&format!("127.0.0.1,{},unasked,0", redis.port()), "").start();
    done(&server, "report", DIGEST);
}
