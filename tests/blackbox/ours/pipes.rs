//! Configured files that are pipes, whose other end may never be opened.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{DIGEST, Home, Server, eventually, finish};

const NOBODY: u32 = 65534;

/// Creates a pipe that all users may open.
fn pipe(path: &Path) {
    // It may replace a file.
    let _ = fs::remove_file(path);
    mkfifo(path, Mode::S_IRWXU).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// Opens a pipe for reading without blocking, because it is open for writing as well.
fn reader(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// Creates a home, in which servers change to `nobody` if requested.
fn home(changes_user: bool) -> Home {
    if !changes_user {
        return Home::open();
    }
    let home = Home::open().user_from_config().config("User = nobody\n");
    let inside = fs::read_dir(home.directory()).unwrap().map(|entry| entry.unwrap().path());
    for path in [home.parent(), home.directory()].into_iter().chain(inside) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    home
}

#[test]
fn pipe_instead_of_a_file_fails_the_start() {
    for changes_user in [false, true] {
        for name in ["pyzord.pid", "pyzord.passwd", "pyzord.access", "pyzord.db", "config"] {
            for is_read in [false, true] {
                if name == "config" && changes_user {
                    continue;
                }
                let home = home(changes_user);
                let path = home.path(name);
                pipe(&path);
                let _reader = is_read.then(|| reader(&path));
                finish(home.detached()).expect_line(&[name]);
                home.expect_no_process();
            }
        }
    }
}

#[test]
fn log_on_a_pipe_without_reader_fails_the_start() {
    for changes_user in [false, true] {
        for option in ["--log-file", "--usage-log-file"] {
            let home = home(changes_user);
            let path = home.parent().join("pipe");
            pipe(&path);
            let mut command = home.detached();
            command.arg(option).arg(&path);
            finish(command).expect_line(&[path.to_str().unwrap(), "start its reader first"]);
        }
    }
}

#[test]
fn device_as_pid_file_fails_the_start() {
    for device in ["/dev/null", "/dev/tty", "/dev/ptmx"] {
        let home = Home::open();
        let mut command = home.detached();
        command.args(["--pid-file", device]);
        finish(command).expect_line(&[device]);
    }
}

#[test]
fn detach_output_on_a_pipe_without_reader_fails_the_start() {
    for changes_user in [false, true] {
        let home = home(changes_user);
        let path = home.parent().join("output");
        pipe(&path);
        let mut command = home.command();
        command.arg("--detach").arg(&path);
        finish(command).expect_line(&[path.to_str().unwrap(), "--detach", "start its reader first"]);
    }
}

#[test]
fn detach_output_on_a_pipe_with_reader_delays_nothing() {
    let home = Home::open();
    let path = home.parent().join("output");
    pipe(&path);
    let mut reader = reader(&path);
    let mut command = home.command();
    command.arg("-d").arg("--detach").arg(&path);
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let mut caller = home.caller();
    let mut text = String::new();
    eventually("debugging lines", || {
        assert_eq!(caller.answered("ping", &[]).code(), 200);
        let mut part = [0; 4096];
        let length = reader.read(&mut part).unwrap_or(0);
        text += &String::from_utf8_lossy(&part[..length]);
        text.contains(" DEBUG ").then_some(())
    });
    // Far more than the pipe holds.
    for _ in 0..1000 {
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    }
    home.daemon().stop();
}

#[test]
fn pipe_or_directory_instead_of_the_marker_does_not_block() {
    let home = Home::open();
    home.detach().stop();
    let marker = home.path("pyzord.db.open");
    // A pipe is replaced by a new marker.
    for is_pipe in [true, false] {
        if is_pipe {
            pipe(&marker);
        } else {
            fs::create_dir(&marker).unwrap();
        }
        let mut server = Server::start(&home, home.command());
        server.serves(&mut home.caller());
        assert_eq!(home.log().contains("cannot write the marker "), !is_pipe, "{}", home.log());
        assert_eq!(marker.is_file(), is_pipe);
        server.process().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn pipe_is_neither_repaired_nor_migrated() {
    let home = Home::open();
    let path = home.path("pipe");
    pipe(&path);
    let mut command = home.command();
    command.arg("--recover").arg("--dsn").arg(&path);
    finish(command).expect_line(&["pipe", "not a regular file"]);

    home.detach().stop();
    let database = home.path("pyzord.db").display().to_string();
    let pipe = path.display().to_string();
    for arguments in [
        vec!["--sd", pipe.as_str(), "--dd", &database],
        vec!["--sd", &database, "--dd", &pipe],
        vec!["--sd", &database, "--dd", "new.db", "--merge", "--journal", &pipe],
    ] {
        let mut command = home.mark(std::process::Command::new(env!("CARGO_BIN_EXE_pyzor-migrate")));
        command.current_dir(home.parent()).args(["-q", "--se", "gdbm", "--de", "gdbm"]);
        command.args(arguments);
        finish(command).expect_line(&["pipe"]);
    }
}

#[test]
fn certificate_file_that_is_a_pipe_is_refused() {
    let home = Home::open();
    let path = home.path("ca.pem");
    pipe(&path);
    for engine in ["redis", "mysql"] {
        let place = if engine == "redis" { "rediss://127.0.0.1:1/0" } else { "mysql://127.0.0.1:1/a/b" };
        let configure = |query: &str| {
            let config = format!("[server]\nEngine = {engine}\nDigestDB = {place}{query}\n");
            home.rewrite("config", config);
        };
        configure(&format!("?ca={}", path.display()));
        finish(home.detached()).expect_line(&["ca.pem", "not a regular file"]);
        configure(if engine == "mysql" { "?tls=true" } else { "" });
        let mut command = home.detached();
        command.env("SSL_CERT_FILE", &path);
        finish(command).expect_line(&["ca.pem", "not a regular file"]);
    }
}

#[test]
fn reload_does_not_wait_for_accounts_on_a_pipe() {
    let home = Home::open();
    let daemon = home.detach();
    pipe(&home.path("pyzord.access"));
    daemon.signal(Signal::SIGUSR1);
    eventually("the refusal", || home.log().contains("it is not a regular file; the accounts").then_some(()));
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.stop();
}
