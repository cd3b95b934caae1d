//! The files and addresses of the sockets for operators: who gets them, and that no start takes them from a server.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Home, PATIENCE, Server, eventually, finish};

/// Type and permissions of the file of a control socket.
const CONTROL: u32 = libc::S_IFSOCK | 0o600;
/// Type and permissions of the file of a metrics socket.
const METRICS: u32 = libc::S_IFSOCK | 0o660;

fn socket(home: &Home) -> PathBuf {
    home.path("pyzord.sock")
}

#[track_caller]
fn expect_mode(path: &Path, mode: u32) {
    let found = fs::symlink_metadata(path).unwrap().mode();
    assert_eq!(found, mode, "{found:o} at {}", path.display());
}

/// Leaves the file of a socket that no process listens on.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

/// Connects to a socket with a path of any length.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let directory = File::open(path.parent().unwrap())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    UnixStream::connect(short.join(path.file_name().unwrap()))
}

/// Sends a command to the control socket at this path and returns the reply.
#[track_caller]
pub(crate) fn ask(path: &Path, command: &str) -> Value {
    let connection = connect(path).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(&connection, "{{\"command\":\"{command}\"}}").unwrap();
    let mut line = String::new();
    BufReader::new(&connection).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn metrics_port(home: &Home) -> u16 {
    let log = home.log();
    let address = log.split("Metrics: http://127.0.0.1:").nth(1).unwrap_or_else(|| panic!("{log}"));
    address[..address.find("/metrics").unwrap()].parse().unwrap()
}

#[test]
fn sockets_have_their_modes_and_are_removed_at_the_end() {
    let home = Home::open();
    let metrics = home.path("metrics.sock");
    let home = home.config(&format!("MetricsAddress = {}\n", metrics.display()));
    for detached in [false, true] {
        let server = if detached { Err(home.detach()) } else { Ok(home.start()) };
        for (path, mode) in [(socket(&home), CONTROL), (metrics.clone(), METRICS)] {
            expect_mode(&path, mode);
            connect(&path).unwrap();
        }
        match server {
            Ok(server) => assert!(server.stop().success()),
            Err(daemon) => daemon.stop(),
        }
        assert!(!socket(&home).exists() && !metrics.exists(), "detached: {detached}");
    }
    assert!(!home.log().contains(" WARNING "), "{}", home.log());
}

#[test]
fn confined_servers_accept_connections() {
    for settings in ["", "Confine = False\n", "MetricsAddress = 127.0.0.1:0\n", "MetricsAddress = [::1]:0\n"]
    {
        let home = Home::open().config(settings);
        for detached in [false, true] {
            let server = if detached { Err(home.detach()) } else { Ok(home.start()) };
            for _ in 0..20 {
                let status = &ask(&socket(&home), "status")["status"];
                assert!(status["health"] == "well", "{status}");
                let confinement = status["confinement"].as_str().unwrap();
                assert_eq!(
                    confinement.contains("system calls restricted by seccomp"),
                    !settings.contains("False")
                );
            }
            match server {
                Ok(server) => assert!(server.stop().success()),
                Err(daemon) => daemon.stop(),
            }
        }
    }
}

#[test]
fn socket_of_a_killed_server_is_replaced() {
    let home = Home::open();
    let mut before = None;
    for _ in 0..3 {
        let daemon = home.detach_after_kill();
        connect(&socket(&home)).unwrap();
        expect_mode(&socket(&home), CONTROL);
        daemon.signal(Signal::SIGKILL);
        daemon.ended();
        let stale = fs::symlink_metadata(socket(&home)).unwrap().ctime_nsec();
        assert_ne!(before.replace(stale), Some(stale));
        // A thread of the server may end later than the first one.
        eventually("the end of all threads", || connect(&socket(&home)).err());
    }
}

#[test]
fn second_server_leaves_the_socket_of_the_first_alone() {
    let first = Home::open();
    let server = first.start();
    let path = socket(&first);
    let file = || fs::symlink_metadata(&path).unwrap().ino();
    let before = file();
    // The start fails, since the database is in use.
    let finished = finish(first.on_another_port().command());
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stderr.contains("control socket"), "{finished:?}");
    let second = Home::open().config(&format!("ControlSocket = {}\n", path.display()));
    let other = second.start();
    let line = format!(
        "WARNING pyzorctl cannot reach this server: cannot create the control socket {} (ControlSocket): another \
         process listens on it",
        path.display()
    );
    assert_eq!(second.log().matches(&line).count(), 1, "{}", second.log());
    assert!(other.stop().success());
    assert_eq!(file(), before);
    connect(&path).unwrap();
    assert!(server.stop().success());
    assert!(!path.exists());
}

#[test]
fn of_servers_that_start_at_once_one_gets_the_socket() {
    let directory = Home::new();
    let path = directory.path("shared.sock");
    leave_stale(&path);
    let homes: Vec<Home> =
        (0..4).map(|_| Home::open().config(&format!("ControlSocket = {}\n", path.display()))).collect();
    let mut servers: Vec<Server> = homes.iter().map(|home| Server::start(home, home.command())).collect();
    let mut without = Vec::new();
    let mut owner = Vec::new();
    for server in &mut servers {
        let mut caller = server.home().caller();
        server.serves(&mut caller);
    }
    for server in servers {
        let log = server.home().log();
        match log.contains(" INFO Control socket: ") {
            true => owner.push(server),
            false => {
                assert!(log.contains("another process listens on it"), "{log}");
                without.push(server);
            }
        }
    }
    assert_eq!((owner.len(), without.len()), (1, 3));
    for server in without {
        assert!(server.stop().success());
        connect(&path).unwrap();
    }
    assert!(owner.remove(0).stop().success());
    assert!(!path.exists());
}

#[test]
fn socket_that_cannot_be_created_is_a_warning() {
    let home = Home::open();
    fs::write(home.path("file"), "text").unwrap();
    symlink("nowhere", home.path("link")).unwrap();
    fs::create_dir(home.path("locked")).unwrap();
    let lock = File::open(home.path("locked")).unwrap();
    lock.lock().unwrap();
    for (path, why) in [
        ("file", "the path exists and is not a socket: remove it"),
        ("link", "the path exists and is not a socket: remove it"),
        ("file/socket", "cannot open its directory: Not a directory"),
        ("missing/socket", "cannot open its directory: No such file or directory"),
        ("locked/socket", "another process has locked its directory"),
    ] {
        let home = home.clone().config(&format!("ControlSocket = {path}\n"));
        fs::write(home.path("pyzord.log"), "").unwrap();
        let server = home.start();
        let path = home.path(path);
        let line = format!("cannot create the control socket {} (ControlSocket): {why}", path.display());
        assert!(home.log().contains(&line), "{line}: {}", home.log());
        assert_eq!(server.request("ping", &[]).code(), 200);
        assert!(server.stop().success());
    }
    assert_eq!(fs::read(home.path("file")).unwrap(), b"text");
    assert!(fs::symlink_metadata(home.path("link")).unwrap().is_symlink() && !home.path("nowhere").exists());
}

#[test]
fn empty_option_means_no_socket() {
    let home = Home::open().config("ControlSocket =\n");
    let server = home.start();
    assert!(!socket(&home).exists());
    let is_socket = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_type().unwrap().is_socket();
    assert!(!fs::read_dir(home.directory()).unwrap().any(is_socket));
    assert!(server.stop().success());
    assert!(!home.log().contains("ontrol socket"), "{}", home.log());
}

#[test]
fn path_longer_than_an_address_of_a_socket_is_served() {
    let home = Home::open();
    let deep = home.path("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("pyzord.sock");
    let home = home.config(&format!("ControlSocket = {}\n", path.display()));
    let daemon = home.detach();
    expect_mode(&path, CONTROL);
    connect(&path).unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let daemon = home.detach_after_kill();
    connect(&path).unwrap();
    daemon.stop();
    assert!(!path.exists());
}

#[test]
fn file_that_replaced_the_socket_is_not_removed() {
    let home = Home::open();
    let server = home.start();
    fs::remove_file(socket(&home)).unwrap();
    let other = UnixListener::bind(socket(&home)).unwrap();
    assert!(server.stop().success());
    connect(&socket(&home)).unwrap();
    drop(other);
}

#[test]
fn metrics_address_is_listened_on_or_the_start_fails() {
    let home = Home::open().config("MetricsAddress = 127.0.0.1:0\n");
    for detached in [false, true] {
        let server = if detached { Err(home.detach()) } else { Ok(home.start()) };
        let port = metrics_port(&home);
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        match server {
            Ok(server) => assert!(server.stop().success()),
            Err(daemon) => daemon.stop(),
        }
        fs::write(home.path("pyzord.log"), "").unwrap();
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let file = home.path("config").display().to_string();
    for (address, why) in [
        (in_use.as_str(), "Address already in use (os error 98): choose another port"),
        (
            "192.0.2.1:9421",
            "Cannot assign requested address (os error 99): choose an address of this machine",
        ),
        (&file, "the path exists and is not a socket"),
        ("/missing/metrics", "cannot open its directory"),
    ] {
        let home = home.clone().config(&format!("MetricsAddress = {address}\n"));
        for command in [home.command(), home.detached()] {
            let finished = finish(command);
            let line = finished.stderr.lines().find(|line| line.contains("MetricsAddress: cannot "));
            let line = line.unwrap_or_else(|| panic!("{finished:?}"));
            assert!(line.contains(address) && line.contains(why), "{line}");
            assert_eq!(finished.code, Some(1));
            assert!(!socket(&home).exists(), "{address}");
        }
    }
}

#[test]
fn metrics_wait_for_a_predecessor_to_end() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::open().config(&format!("MetricsAddress = {}\n", taken.local_addr().unwrap()));
    let mut server = Server::start(&home, home.command());
    // The server has tried once when its log exists, or is about to.
    eventually("a log", || home.path("pyzord.log").exists().then_some(()));
    drop(taken);
    server.serves(&mut home.caller());
    assert_ne!(metrics_port(&home), 0);
}

#[test]
fn bad_values_name_line_and_option() {
    let home = Home::open();
    let long = format!("/{}/{}", "d".repeat(100), "n".repeat(81));
    for (settings, line, option, why) in [
        (
            "MetricsAddress = localhost:9421\n",
            4,
            "MetricsAddress",
            "'localhost:9421' is neither ADDRESS:PORT",
        ),
        ("MetricsAddress = ::1:9421\n", 4, "MetricsAddress", "'::1:9421' is neither"),
        ("MetricsAddress = 127.0.0.1:70000\n", 4, "MetricsAddress", "'127.0.0.1:70000' is neither"),
        ("MetricsAddress = metrics.sock\n", 4, "MetricsAddress", "'metrics.sock' is neither"),
        ("MetricsAddress = 127.0.0.1:9421 # local\n", 4, "MetricsAddress", "includes a comment"),
        ("MetricsAddress = /run/..\n", 4, "MetricsAddress", "does not end with a file name"),
        ("ControlSocket = /run/pyzord/\n", 4, "ControlSocket", "does not end with a file name"),
        (&format!("ControlSocket = {long}\n"), 4, "ControlSocket", "the name is longer than 80 bytes"),
        (
            "ControlSocket = /x/s\nMetricsAddress = /x/s\n",
            5,
            "MetricsAddress",
            "ControlSocket has the same path",
        ),
    ] {
        let home = home.clone().config(settings);
        let place = format!("pyzord: error: {}:{line}: {option}: ", home.path("config").display());
        finish(home.command()).expect_line(&[&place, why]);
        let mut check = home.command();
        check.arg("--check-config");
        let finished = finish(check);
        assert_eq!(finished.code, Some(1));
        assert!(finished.stderr.starts_with(&place) && finished.stderr.contains(why), "{finished:?}");
    }
}
