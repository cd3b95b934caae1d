//! The control socket is for root and the user of the server.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::confinement::{NOBODY, STRANGER, home_of};
use crate::harness::{Home, ask_operator};

/// Asks for the status as this user. Returns everything that the program printed.
fn ask_as(user: u32, home: &Home) -> String {
    let code = "import socket, sys\n\
        peer = socket.socket(socket.AF_UNIX)\n\
        peer.connect(sys.argv[1])\n\
        try:\n\
        \x20peer.sendall(b'{\"command\":\"status\"}\\n')\n\
        except BrokenPipeError: pass\n\
        print(peer.makefile().readline())\n";
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let mut python = Command::new("setpriv");
    python.args(ids).args(["/usr/bin/python3", "-c", code]).arg(home.path("pyzord.sock"));
    let output = python.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn control_socket_is_for_root_and_the_user_of_the_server() {
    let home = home_of(NOBODY, NOBODY, "User = nobody\n");
    for directory in [home.parent(), home.directory()] {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    let _server = home.start();
    let mode = fs::metadata(home.path("pyzord.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(ask_as(NOBODY, &home).contains("\"status\""));
    assert!(ask_operator(&home, "status")["status"].is_object());
    let refused = ask_as(STRANGER.0, &home);
    assert!(refused.contains("PermissionError"), "{refused}");
    // The peer is checked even if the mode lets every user connect.
    fs::set_permissions(home.path("pyzord.sock"), Permissions::from_mode(0o666)).unwrap();
    let refused = ask_as(STRANGER.0, &home);
    assert!(refused.contains("permission denied: only root"), "{refused}");
    assert!(ask_as(NOBODY, &home).contains("\"status\""));
}
