//! The sockets for operators of a server that has changed to another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use crate::harness::Home;
use crate::ours::operator_sockets::ask;
use crate::ours::root::privileges::{NOBODY, home_of, require_root};

#[test]
fn sockets_belong_to_the_user_and_are_removed_by_it() {
    require_root();
    let home = home_of(NOBODY, "");
    let metrics = home.path("metrics.sock");
    let home = home.config(&format!("User = nobody\nMetricsAddress = {}\n", metrics.display()));
    for _ in 0..2 {
        let daemon = home.detach();
        for (path, mode) in [(home.path("pyzord.sock"), 0o600), (metrics.clone(), 0o660)] {
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (NOBODY, NOBODY));
            assert_eq!(found.permissions().mode() & 0o7777, mode);
            UnixStream::connect(&path).unwrap();
        }
        let status = ask(&home.path("pyzord.sock"), "status");
        assert_eq!(status["status"]["health"], "well", "{status}");
        daemon.stop();
        assert!(!home.path("pyzord.sock").exists() && !metrics.exists());
    }
}

#[test]
fn directory_in_which_the_user_may_not_create_files_is_a_warning_for_control_and_an_error_for_metrics() {
    require_root();
    let elsewhere = Home::new();
    fs::set_permissions(elsewhere.parent(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(elsewhere.directory(), Permissions::from_mode(0o755)).unwrap();
    let path = elsewhere.path("socket");
    let home = home_of(NOBODY, &format!("User = nobody\nControlSocket = {}\n", path.display()));
    let server = home.start();
    let why =
        "Permission denied (os error 13): choose a path in a directory in which the server's user may create";
    let line = format!(
        "WARNING pyzorctl cannot reach this server: cannot create the control socket {}",
        path.display()
    );
    assert!(home.log().contains(&line) && home.log().contains(why), "{}", home.log());
    assert!(server.stop().success());
    let home = home_of(NOBODY, &format!("User = nobody\nMetricsAddress = {}\n", path.display()));
    assert_eq!(home.try_start().err().and_then(|status| status.code()), Some(1));
    assert!(home.stderr().contains("MetricsAddress: cannot create the socket"), "{}", home.stderr());
    assert!(home.stderr().contains(why), "{}", home.stderr());
    assert!(!path.exists());
}
