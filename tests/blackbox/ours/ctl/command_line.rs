//! The command line of pyzorctl, and how it finds the server.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use tempfile::TempDir;

use super::fake::{FakeServer, line, status};
use super::{program, said};
use crate::harness::finish;

#[test]
fn help_and_version_succeed() {
    assert_eq!(said("--version").expect_report(0), concat!("pyzorctl ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = said("--help").expect_report(0).to_owned();
    for word in
        ["status", "stats", "reload", "reopen", "health", "--homedir <DIR>", "--socket <PATH>", "--json"]
    {
        assert!(help.contains(&format!("  {word}")), "{word} is not in\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    assert!(said("health --help").expect_report(0).contains("--timeout <SECONDS>"));
}

#[test]
fn wrong_command_line_is_an_unknown_state() {
    for arguments in [
        "",
        "stop",
        "status now",
        "--nosuch status",
        "stats --interval 0",
        "stats --interval x",
        "status --interval 1",
        "health localhost",
        "health ::1:24441",
        "health 127.0.0.1:0",
        "health --timeout 0 127.0.0.1:1",
        "health --timeout NaN 127.0.0.1:1",
        "--homedir= status",
        "--socket= status",
    ] {
        let said = said(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(3), ""), "{arguments}: {said:?}");
        assert!(
            said.stderr.contains("Usage: pyzorctl") || said.stderr.contains("--help"),
            "{arguments}: {said:?}"
        );
    }
}

/// Links the socket of a server to this path.
fn link(server: &FakeServer, path: &Path) {
    std::os::unix::fs::symlink(server.socket(), path).unwrap();
}

#[test]
fn socket_is_that_of_the_config_in_the_homedir() {
    let server = FakeServer::replying(line("status", &status()));
    let directory = TempDir::new().unwrap();
    let home = directory.path().join(".pyzor");
    fs::create_dir(&home).unwrap();
    let well = |arguments: &[&str]| {
        let mut command = program("");
        command.args(arguments).arg("status").env("HOME", directory.path()).current_dir(directory.path());
        assert!(finish(command).expect_report(0).starts_with("well: "), "{arguments:?}");
    };
    link(&server, &home.join("pyzord.sock"));
    well(&[]);
    well(&["--homedir", home.to_str().unwrap()]);
    well(&["--homedir", ".pyzor"]);
    well(&["--homedir=/nonexistent", "--socket", ".pyzor/pyzord.sock"]);
    // Other options may be wrong, as the server may be running with earlier ones.
    fs::write(
        home.join("config"),
        "[server]\nControlSocket = sockets/other\nEngine = nosuch\nUser = no such user\nPreFork = 1\nX = y\n",
    )
    .unwrap();
    fs::remove_file(home.join("pyzord.sock")).unwrap();
    fs::create_dir(home.join("sockets")).unwrap();
    link(&server, &home.join("sockets/other"));
    well(&[]);
    link(&server, &directory.path().join("in home"));
    fs::write(home.join("config"), "[server]\nControlSocket = ~/in home\n").unwrap();
    well(&[]);
}

#[test]
fn config_without_a_usable_socket_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    let complaint = |config: &str| {
        fs::write(home.join("config"), config).unwrap();
        let said = said(&format!("--homedir {} reload", home.display()));
        said.expect_complaint(3).replace(&home.display().to_string(), "HOME")
    };
    assert_eq!(
        complaint("[server]\nControlSocket =\n"),
        "ControlSocket is empty in HOME/config, so the server has no control socket: set it and restart the server"
    );
    let unparsable = complaint("no section\n");
    assert!(
        unparsable.starts_with("HOME/config") && unparsable.ends_with("as the server's user"),
        "{unparsable}"
    );
    let absent = complaint("[server]\nPort = nonsense\n");
    assert!(absent.starts_with("HOME/config:2: Port: "), "{absent}");
    assert_eq!(
        complaint("[server]\n"),
        "there is no control socket HOME/pyzord.sock: if a server is running, name its homedir with --homedir; \
         otherwise start it"
    );
    assert_eq!(
        said("reload").expect_complaint(3),
        "there is no directory /nonexistent/.pyzor: name the server's homedir with --homedir, or its socket with --socket"
    );
    let mut command = program("reload");
    command.env_remove("HOME").arg("--homedir").arg(home.join("config"));
    assert!(finish(command).expect_complaint(3).starts_with("there is no directory "));
}

#[test]
fn output_that_cannot_be_written_is_an_unknown_state() {
    let server = FakeServer::replying(line("status", &status()));
    let mut command = program("status");
    command.arg("--socket").arg(server.socket());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .starts_with("pyzorctl: error: cannot write to standard output: ")
    );
}

mod root {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;
    use crate::harness::controller;

    /// Runs the program as the user `nobody`.
    fn complaint(directory: &Path, arguments: &[&str]) -> String {
        // The program may be in a directory that only root can access.
        let copy = directory.join("pyzorctl");
        if !copy.exists() {
            fs::copy(controller(), &copy).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        command.arg(copy).args(arguments).env("HOME", "/nonexistent");
        finish(command).expect_complaint(3).to_owned()
    }

    #[test]
    fn user_without_permission_is_told_who_has_it() {
        let directory = TempDir::new().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(directory.path(), 0o755);
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        let socket = home.join("pyzord.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        mode(&socket, 0o600);
        let advice = "run pyzorctl as root or as the server's user";
        let at = ["--homedir", home.to_str().unwrap(), "reload"];
        let denied = format!("cannot connect to {}: permission denied: {advice}", socket.display());
        assert_eq!(complaint(directory.path(), &at), denied);
        mode(&home, 0o700);
        let said = complaint(directory.path(), &at);
        assert!(said.contains("Permission denied") && said.ends_with(advice), "{said}");
        assert_eq!(complaint(directory.path(), &["--socket", socket.to_str().unwrap(), "reload"]), denied);
    }
}
