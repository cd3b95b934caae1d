//! Servers in the background, and their output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, getsid};

use crate::harness::{Account, DIGEST, Home, Server, eventually, finish};

#[test]
fn detach_returns_when_the_daemon_answers() {
    let home = Home::open();
    for round in 0..5 {
        let daemon = home.detach();
        assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
        assert_eq!(home.read("pyzord.pid"), format!("{}\n", daemon.pid()));
        assert_eq!(home.processes(), [daemon.pid()]);
        assert_eq!(home.caller().count(DIGEST), round + 1);
        daemon.stop();
        assert!(!home.path("pyzord.pid").exists());
    }
}

#[test]
fn daemon_keeps_no_descriptor_or_terminal_of_its_caller() {
    let home = Home::open();
    // Descriptor 77 is a pipe of the caller: `finish` waits until the daemon has closed it.
    let daemon = home.detach_with(home.under("exec \"$@\" 77>&1 78</etc/hostname", true));
    let descriptors = daemon.descriptors();
    for number in 0..=2 {
        assert_eq!(descriptors[&number], "/dev/null", "{descriptors:?}");
    }
    assert!(!descriptors.contains_key(&77) && !descriptors.contains_key(&78), "{descriptors:?}");
    // The pipe that reported readiness is closed afterwards.
    eventually("no pipe is left open", || {
        let descriptors = daemon.descriptors();
        (!descriptors.values().any(|target| target.starts_with("pipe:"))).then_some(())
    });
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap().to_str(), Some("/"));
    assert_eq!(daemon.stat(7), 0, "the daemon has a terminal");
    let session = getsid(Some(daemon.pid())).unwrap();
    assert_ne!(session, getsid(None).unwrap());
    assert_ne!(session, daemon.pid(), "a session leader would get a terminal by opening one");
    daemon.stop();
}

#[test]
fn files_are_private_whatever_the_umask() {
    let home = Home::open();
    let daemon = home.detach_with(home.under("umask 0; exec \"$@\"", true));
    let status = fs::read_to_string(daemon.proc("status")).unwrap();
    assert!(status.contains("\nUmask:\t0077\n"), "{status}");
    for name in ["pyzord.db", "pyzord.pid", "pyzord.log", "usage.log"] {
        let mode = fs::metadata(home.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    daemon.stop();
}

#[test]
fn missing_homedir_is_created_private() {
    let home = Home::open();
    let homedir = home.parent().join("created");
    let mut command = home.under("umask 0; exec \"$@\"", true);
    command.arg("--homedir").arg(&homedir);
    let finished = finish(command);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::metadata(&homedir).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(homedir.join("pyzord.pid").exists());
}

#[test]
fn relative_paths_work_in_the_background() {
    let account = Account::new("bob");
    let home = Home::open();
    home.rewrite("accounts.txt", account.passwd());
    home.rewrite("rights.txt", "check : bob : allow\n");
    home.rewrite("config", "[server]\nLogFile = main.log\nPasswdFile = accounts.txt\nDigestDB = my.db\n");
    let mut command = home.bare();
    command.current_dir(home.parent()).args(["--homedir", "home", "-a", "127.0.0.1", "--detach", "output"]);
    command.args(["-p", &home.port().to_string(), "--access-file", "rights.txt"]);
    let daemon = home.detach_with(command);
    assert_eq!(fs::read_to_string(home.parent().join("output")).unwrap(), "");
    let rights = [("check", 403), ("ping", 403)];
    for (operation, code) in rights {
        assert_eq!(home.caller().answered(operation, &[DIGEST]).code(), code);
    }
    // A reload finds them as well.
    home.rewrite("rights.txt", "ping : anonymous : allow\n");
    daemon.signal(Signal::SIGUSR1);
    eventually("the new rights", || (home.caller().answered("ping", &[]).code() == 200).then_some(()));
    fs::rename(home.path("main.log"), home.path("main.log.1")).unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("a new log", || home.path("main.log").exists().then_some(()));
    daemon.stop();
    assert!(home.path("my.db").exists());
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn homedir_can_be_the_working_directory() {
    let home = Home::open();
    let mut command = home.bare();
    command.current_dir(home.directory()).args(["--homedir=.", "-a", "127.0.0.1", "--detach=/dev/null"]);
    command.args(["-p", &home.port().to_string()]);
    let daemon = home.detach_with(command);
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    daemon.stop();
    assert!(!home.path("pyzord.pid").exists());
}

#[test]
fn second_start_names_the_running_server() {
    let home = Home::open();
    let daemon = home.detach();
    let running = format!("already running (pid {})", daemon.pid());
    finish(home.detached()).expect_line(&[&running]);
    assert_eq!(home.read("pyzord.pid"), format!("{}\n", daemon.pid()));
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    // Another port makes no difference: the pid file belongs to the homedir.
    let mut elsewhere = home.detached();
    elsewhere.args(["-p", "0"]);
    finish(elsewhere).expect_line(&[&running]);
    assert_eq!(home.processes(), [daemon.pid()]);
    daemon.stop();
}

#[test]
fn stale_pid_file_is_replaced() {
    let home = Home::open();
    let dead = {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    let foreign = std::process::id();
    for content in
        [format!("{dead}\n"), format!("{foreign}\n"), "1\n".into(), String::new(), "x".repeat(9000)]
    {
        home.rewrite("pyzord.pid", content);
        let daemon = home.detach();
        assert_eq!(home.processes(), [daemon.pid()]);
        daemon.stop();
        assert!(!home.path("pyzord.pid").exists());
    }
}

#[test]
fn refused_niceness_is_a_warning() {
    let home = Home::open().unprivileged().arguments(&["--nice", "-5"]);
    let server = home.start();
    assert_eq!(server.request("ping", &[]).code(), 200);
    let warned = |line: &str| line.contains(" WARNING ") && line.contains("nice");
    eventually("a warning", || home.log().lines().any(warned).then_some(()));
    eventually("the warning on stderr", || home.stderr().contains("nice").then_some(()));
    if Uid::effective().is_root() {
        drop(server);
        let home = Home::open().arguments(&["--nice", "-1"]);
        let _server = home.start();
        assert!(!home.log().contains("WARNING"));
    }
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    let home = Home::open();
    let script = "exec \"$@\" <&- >&- 2>&-";
    let mut server = Server::start(&home, {
        let mut command = home.under(script, false);
        command.arg("-d");
        command
    });
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    let descriptors = server.process().descriptors();
    for number in 0..=2 {
        assert_eq!(descriptors.get(&number).map(String::as_str), Some("/dev/null"), "{descriptors:?}");
    }
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert_eq!(home.stored(), [(DIGEST.to_owned(), 1)].into());

    let daemon = home.detach_with(home.under(script, true));
    assert_eq!(home.caller().count(DIGEST), 1);
    assert!((0..=2).all(|number| daemon.descriptors()[&number] == "/dev/null"));
    daemon.stop();
    assert_eq!(home.stored(), [(DIGEST.to_owned(), 1)].into());
}

#[test]
fn daemon_output_goes_to_the_file_of_detach() {
    let home = Home::open();
    let output = home.parent().join("output");
    fs::write(&output, "older\n").unwrap();
    let mut command = home.command();
    command.arg("-d").arg("--detach").arg(&output);
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    let text = || fs::read_to_string(&output).unwrap();
    eventually("debugging lines", || text().contains(" DEBUG ").then_some(()));
    assert!(text().starts_with("older\n"));
    home.daemon().stop();
}

#[test]
fn logs_can_go_to_stdout_and_stderr() {
    let home = Home::open();
    let mut command = home.command();
    command.args(["--log-file", "/dev/stderr", "--usage-log-file", "/dev/stdout"]);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(fs::read_to_string(home.parent().join("stdout")).unwrap().contains(",ping,None,200"));
    assert!(home.stderr().contains("Server shutdown."));
}

#[test]
fn server_on_a_terminal_prints_its_address() {
    let home = Home::open();
    let server = home.command();
    let words: Vec<_> = std::iter::once(server.get_program()).chain(server.get_args()).collect();
    let line = words.join(std::ffi::OsStr::new(" "));
    // script(1) gives its command a terminal, and copies the output.
    let mut command = home.mark(Command::new("script"));
    command.args(["-q", "-e", "-c"]).arg(line).arg("/dev/null");
    let mut terminal = Server::start(&home, command);
    terminal.serves(&mut home.caller());
    let output = || fs::read_to_string(home.parent().join("stdout")).unwrap();
    let text = eventually("a line on the terminal", || Some(output()).filter(|text| text.ends_with('\n')));
    let place = format!("127.0.0.1:{}", home.port());
    let database = home.path("pyzord.db");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [place.as_str(), "gdbm", database.to_str().unwrap()] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}
