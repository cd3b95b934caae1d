//! Files that an operator has named and that are pipes, which have another end that may never be opened.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{DIGEST, Home, eventually, ours_only};
use crate::support::{Running, Site, finish};

const NOBODY: u32 = 65534;

/// A pipe that all users may open.
fn pipe(path: &Path) {
    // It takes the place of what is there.
    let _ = fs::remove_file(path);
    mkfifo(path, Mode::S_IRWXU).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// A reader of a pipe, who reads nothing by itself. It could write as well, so that opening waits for nobody.
fn reader(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// A site of the user `nobody`, whom servers there become, or else of the user of these tests.
fn site(becomes: bool) -> Site {
    if !becomes {
        return Site::new();
    }
    let site = Site::at(Home::open().settling_user().config("User = nobody\n"));
    let inside = fs::read_dir(site.home().path()).unwrap().map(|entry| entry.unwrap().path());
    for path in [site.folder(), site.home().path()].into_iter().chain(inside) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    site
}

#[test]
fn a_pipe_in_the_place_of_a_file_fails_the_start_with_a_line() {
    if !ours_only() {
        return;
    }
    for becomes in [false, true] {
        for name in ["pyzord.pid", "pyzord.passwd", "pyzord.access", "pyzord.db", "config"] {
            for is_read in [false, true] {
                if name == "config" && becomes {
                    continue;
                }
                let site = site(becomes);
                let path = site.path(name);
                pipe(&path);
                let _reader = is_read.then(|| reader(&path));
                finish(site.detached()).expect_line(&[name]);
                site.expect_nobody();
            }
        }
    }
}

#[test]
fn a_log_on_a_pipe_without_a_reader_fails_the_start_with_a_line() {
    if !ours_only() {
        return;
    }
    for becomes in [false, true] {
        for option in ["--log-file", "--usage-log-file"] {
            let site = site(becomes);
            let path = site.folder().join("pipe");
            pipe(&path);
            let mut command = site.detached();
            command.arg(option).arg(&path);
            finish(command).expect_line(&[path.to_str().unwrap(), "start its reader first"]);
        }
    }
}

#[test]
fn a_device_is_no_pid_file() {
    if !ours_only() {
        return;
    }
    for device in ["/dev/null", "/dev/tty", "/dev/ptmx"] {
        let site = Site::new();
        let mut command = site.detached();
        command.args(["--pid-file", device]);
        finish(command).expect_line(&[device]);
    }
}

#[test]
fn output_on_a_pipe_without_a_reader_fails_the_start_with_a_line() {
    if !ours_only() {
        return;
    }
    for becomes in [false, true] {
        let site = site(becomes);
        let path = site.folder().join("output");
        pipe(&path);
        let mut command = site.command();
        command.arg("--detach").arg(&path);
        finish(command).expect_line(&[path.to_str().unwrap(), "--detach", "start its reader first"]);
    }
}

#[test]
fn output_on_a_pipe_with_a_reader_is_read_there_and_holds_nothing_up() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let path = site.folder().join("output");
    pipe(&path);
    let mut reader = reader(&path);
    let mut command = site.command();
    command.arg("-d").arg("--detach").arg(&path);
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let mut caller = site.caller();
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
    site.daemon().stop();
}

#[test]
fn a_pipe_or_a_folder_in_the_place_of_the_marker_is_not_waited_for() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    site.detach().stop();
    let marker = site.path("pyzord.db.open");
    // A new marker takes the place of the first.
    for is_pipe in [true, false] {
        if is_pipe {
            pipe(&marker);
        } else {
            fs::create_dir(&marker).unwrap();
        }
        let mut server = Running::start(&site, site.command());
        server.serves(&mut site.caller());
        assert_eq!(
            site.home().log().contains("pyzord.db.open cannot be written"),
            !is_pipe,
            "{}",
            site.home().log()
        );
        assert_eq!(marker.is_file(), is_pipe);
        server.daemon().signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
    }
}

#[test]
fn a_pipe_is_not_repaired_and_not_migrated() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let path = site.path("pipe");
    pipe(&path);
    let mut command = site.command();
    command.arg("--recover").arg("--dsn").arg(&path);
    finish(command).expect_line(&["pipe", "not a regular file"]);

    site.detach().stop();
    let database = site.path("pyzord.db").display().to_string();
    let pipe = path.display().to_string();
    for arguments in [
        vec!["--sd", pipe.as_str(), "--dd", &database],
        vec!["--sd", &database, "--dd", &pipe],
        vec!["--sd", &database, "--dd", "new.db", "--merge", "--journal", &pipe],
    ] {
        let mut command = site.mark(std::process::Command::new(env!("CARGO_BIN_EXE_pyzor-migrate")));
        command.current_dir(site.folder()).args(["-q", "--se", "gdbm", "--de", "gdbm"]);
        command.args(arguments);
        finish(command).expect_line(&["pipe"]);
    }
}

#[test]
fn a_pipe_with_certificates_to_trust_is_refused() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let path = site.path("ca.pem");
    pipe(&path);
    for engine in ["redis", "mysql"] {
        let place = if engine == "redis" { "rediss://127.0.0.1:1/0" } else { "mysql://127.0.0.1:1/a/b" };
        let configure = |query: &str| {
            let config = format!("[server]\nEngine = {engine}\nDigestDB = {place}{query}\n");
            site.home().rewrite("config", config);
        };
        configure(&format!("?ca={}", path.display()));
        finish(site.detached()).expect_line(&["ca.pem", "not a regular file"]);
        configure(if engine == "mysql" { "?tls=true" } else { "" });
        let mut command = site.detached();
        command.env("SSL_CERT_FILE", &path);
        finish(command).expect_line(&["ca.pem", "not a regular file"]);
    }
}

#[test]
fn accounts_that_become_a_pipe_are_not_waited_for_by_a_reload() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let daemon = site.detach();
    pipe(&site.path("pyzord.access"));
    daemon.signal(Signal::SIGUSR1);
    eventually("the refusal", || {
        site.home().log().contains("it is not a regular file; the accounts").then_some(())
    });
    assert_eq!(site.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.stop();
}
