//! Logs and output on inherited descriptors: pipes, sockets and files that may have no path to open.

use std::fs;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::harness::{DIGEST, Home, Process, Server, eventually, finish};

const NOBODY: u32 = 65534;

/// The text read from the other end of an output.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<String>>);

impl Received {
    fn from(mut reader: impl Read + Send + 'static) -> Self {
        let received = Self::default();
        let sink = received.clone();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                sink.0.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        received
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    #[track_caller]
    fn expect(&self, text: &str) {
        eventually(text, || self.text().contains(text).then_some(()));
    }
}

/// Creates a pipe or a socket pair: a reader of the first end, and the second end for the server.
fn channel(is_socket: bool) -> (Received, OwnedFd) {
    if is_socket {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Received::from(ours), theirs.into())
    } else {
        let (ours, theirs) = pipe().unwrap();
        (Received::from(ours), theirs.into())
    }
}

/// Creates a home, in which servers change to `nobody` if requested.
fn home(changes_user: bool, config: &str) -> Home {
    let home = Home::open();
    if !changes_user {
        home.rewrite("config", format!("[server]\n{config}"));
        return home;
    }
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
    home.rewrite("config", format!("[server]\n{config}User = nobody\n"));
    let home = home.user_from_config();
    let inside = fs::read_dir(home.directory()).unwrap().map(|entry| entry.unwrap().path());
    for path in [home.parent(), home.directory()].into_iter().chain(inside) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    home
}

/// Replaces the access file by a link to a file outside the configured paths. A confined server cannot read it.
fn replace_access_file_by_link(home: &Home) -> tempfile::TempDir {
    let outside = tempfile::Builder::new().prefix("outside-").tempdir().unwrap();
    fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(outside.path().join("access"), "all : anonymous : allow\n").unwrap();
    fs::remove_file(home.path("pyzord.access")).unwrap();
    symlink(outside.path().join("access"), home.path("pyzord.access")).unwrap();
    outside
}

#[track_caller]
fn stop(mut server: Server) {
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn server_with_log_on_a_pipe_or_socket_is_confined() {
    for (changes_user, is_socket, log) in [
        (false, false, "/dev/stdout"),
        (false, true, "/dev/stdout"),
        (true, false, "/dev/stdout"),
        (true, true, "/dev/stdout"),
        (true, true, "/dev/fd/1"),
        (true, true, "/proc/self/fd/1"),
        (false, false, "/proc/thread-self/fd/1"),
        (true, false, "link"),
        (true, true, "link"),
    ] {
        let home = home(changes_user, &format!("LogFile = {log}\nUsageLogFile = {log}\n"));
        symlink("/dev/stdout", home.path("link")).unwrap();
        let (received, output) = channel(is_socket);
        let mut server = Server::start_with_stdout(&home, home.command(), output);
        server.serves(&mut home.caller());
        received.expect("Confinement: files restricted by landlock");
        received.expect(",ping,None,200\n");
        let _outside = replace_access_file_by_link(&home);
        server.process().signal(Signal::SIGUSR1);
        received.expect("cannot read the access file");
        server.process().signal(Signal::SIGHUP);
        received.expect("SIGHUP received.");
        eventually("the end of the reload", || {
            (received.text().matches("cannot read the access file").count() == 2).then_some(())
        });
        stop(server);
        received.expect("Server shutdown.");
        let text = received.text() + &home.stderr();
        assert!(!text.contains("cannot open") && !text.contains("Confine:"), "{log}: {text}");
    }
}

#[test]
fn path_without_a_confinement_rule_is_a_warning() {
    let (received, output) = channel(false);
    let path = format!("/proc/{}/fd/{}", std::process::id(), output.as_raw_fd());
    let home = home(false, &format!("LogFile = {path}\n"));
    let mut server = Server::start(&home, home.command());
    server.serves(&mut home.caller());
    for text in [received.text(), home.stderr()] {
        let line = text.lines().find(|line| line.contains("Confine:")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.to_lowercase().contains("warning") && line.contains(&path), "{line}");
    }
    received.expect("Confinement: files restricted by landlock");
    let _outside = replace_access_file_by_link(&home);
    server.process().signal(Signal::SIGUSR1);
    received.expect("cannot read the access file");
    stop(server);
}

#[test]
fn flags_of_a_shared_pipe_stay_unchanged() {
    let home = home(false, "LogFile = /dev/stdout\nUsageLogFile = /dev/fd/1\n");
    let (received, output) = channel(false);
    let ours = output.try_clone().unwrap();
    let mut server = Server::start_with_stdout(&home, home.command(), output);
    server.serves(&mut home.caller());
    received.expect(",ping,None,200\n");
    server.process().signal(Signal::SIGHUP);
    received.expect("have been reloaded");
    let flags = OFlag::from_bits_truncate(fcntl(ours.as_fd(), FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK));
    stop(server);
}

#[test]
fn start_does_not_wait_for_a_full_output() {
    let home = home(false, "LogFile = /dev/stdout\nUsageLogFile = /dev/stdout\n");
    let (reader, mut writer) = pipe().unwrap();
    let nonblocking = |is_so| {
        let flags = if is_so { OFlag::O_NONBLOCK } else { OFlag::empty() };
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).unwrap();
    };
    nonblocking(true);
    let mut full = writer.try_clone().unwrap();
    while full.write(&[b'\n'; 4096]).is_ok() {}
    drop(full);
    nonblocking(false);
    let mut server = Server::start_with_stdout(&home, home.command(), writer.try_clone().unwrap().into());
    let mut caller = home.caller();
    server.serves(&mut caller);
    for _ in 0..1000 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    let received = Received::from(reader);
    received.expect("lines were lost");
    received.expect(",report,");
    writer.flush().unwrap();
    stop(server);
}

#[test]
fn inherited_descriptor_takes_lines_in_the_background() {
    for changes_user in [false, true] {
        let home = home(changes_user, "LogFile = pyzord.log\nUsageLogFile = /proc/self/fd/7\n");
        let path = home.parent().join("seventh");
        let script = format!("exec 7>>{}; exec \"$@\"", path.display());
        let daemon = home.detach_with(home.under(&script, true));
        let text = || fs::read_to_string(&path).unwrap();
        for round in 1..=3 {
            assert_eq!(home.caller().answered("check", &[DIGEST]).code(), 200);
            eventually("a line", || (text().matches(",check,").count() == round).then_some(()));
            daemon.signal(Signal::SIGHUP);
            eventually("the end of the reload", || {
                (home.log().matches("have been reloaded").count() == round).then_some(())
            });
        }
        daemon.stop();
        assert!(!home.log().contains("cannot open"), "{}", home.log());
    }
}

#[test]
fn closed_descriptor_fails_the_start() {
    for script in ["exec \"$@\" 7>&-", "exec \"$@\" 7</dev/null"] {
        let home = home(false, "LogFile = /dev/fd/7\n");
        finish(home.under(script, false)).expect_line(&["log file /dev/fd/7", "descriptor 7"]);
        let home = Home::open();
        let mut command = home.under(script, false);
        command.args(["--detach", "/dev/fd/7"]);
        finish(command).expect_line(&["/dev/fd/7", "--detach", "descriptor 7"]);
    }
}

#[test]
fn hup_does_not_follow_a_log_link_to_a_descriptor_of_the_server() {
    let home = home(false, "LogFile = log\n");
    symlink("/dev/stdout", home.path("log")).unwrap();
    let (received, output) = channel(false);
    let mut server = Server::start_with_stdout(&home, home.command(), output);
    server.serves(&mut home.caller());
    let database = number_of_database(&home, server.process());
    let relink = |target: &str| {
        symlink(target, home.path("new")).unwrap();
        fs::rename(home.path("new"), home.path("log")).unwrap();
        server.process().signal(Signal::SIGHUP);
    };
    relink(&format!("/dev/fd/{database}"));
    received.expect(&format!("descriptor {database} was not the destination of a log"));
    received.expect("have been reloaded");
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    // A file that replaces the link is used, although the server is confined.
    relink("file");
    eventually("lines in the file", || {
        server.process().signal(Signal::SIGUSR1);
        home.read("file").contains("SIGUSR1 received").then_some(())
    });
    stop(server);
    assert_eq!(home.stored(), [(DIGEST.to_owned(), 1)].into());
}

fn number_of_database(home: &Home, daemon: Process) -> u32 {
    let database = home.path("pyzord.db").display().to_string();
    let descriptors = daemon.descriptors();
    *descriptors.iter().find(|(_, target)| **target == database).unwrap().0
}

#[test]
fn output_of_detach_can_be_the_output_of_the_caller() {
    for changes_user in [false, true] {
        for is_socket in [false, true] {
            let home = home(changes_user, "LogFile = /dev/stdout\n");
            let (received, output) = channel(is_socket);
            let mut command = home.command();
            command.args(["--detach", "/dev/stdout"]).stderr(Stdio::null());
            let status = command.stdout(output).status().unwrap();
            assert!(status.success(), "{}", received.text());
            // The command holds a copy of the output.
            drop(command);
            assert_eq!(home.caller().answered("ping", &[]).code(), 200);
            home.daemon().signal(Signal::SIGHUP);
            received.expect("have been reloaded");
            home.daemon().stop();
            received.expect("Server shutdown.");
        }
    }
}

#[test]
fn log_on_stdout_of_a_daemon_goes_to_the_file_of_detach() {
    let home = home(false, "LogFile = /dev/stdout\nUsageLogFile = /dev/stdout\n");
    let output = home.parent().join("output");
    let mut command = home.command();
    command.arg("--detach").arg(&output);
    // Ends when no process holds the output of the caller.
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("Starting pyzord server."), "{finished:?}");
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    let text = || fs::read_to_string(&output).unwrap();
    eventually("a usage line", || text().contains(",ping,None,200\n").then_some(()));
    home.daemon().stop();
    assert!(text().contains("Server shutdown."));
}

/// A descriptor that is closed at the start must not refer to a file that the server opens later.
#[test]
fn own_descriptors_never_become_a_log_or_output() {
    for (arguments, what) in [
        ("--detach /dev/fd/3 3>&-", "descriptor 3"),
        ("--log-file /dev/fd/3 3>log --usage-log-file /dev/fd/4 4>&-", "descriptor 4"),
        ("--usage-log-file /dev/fd/3 3>log --detach /dev/fd/4 4>&-", "descriptor 4"),
    ] {
        let home = Home::open();
        let script = format!("cd '{}'; exec \"$@\" {arguments}", home.parent().display());
        finish(home.under(&script, false)).expect_line(&[what]);
        home.expect_no_process();
    }
}
