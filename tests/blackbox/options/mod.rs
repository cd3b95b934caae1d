//! The command line and the config file.

mod ours;

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{DIGEST, Home, Server};

/// Writes the config file: a section line, then these settings.
fn config(home: &Home, settings: &str) {
    home.rewrite("config", format!("[server]\n{settings}"));
}

/// Asserts that a server with exactly these arguments serves on the home's port.
#[track_caller]
fn expect_service(home: &Home, arguments: &[&str]) {
    let mut command = home.bare();
    command.current_dir(home.parent()).args(arguments);
    let mut server = Server::start(home, command);
    server.serves(&mut home.caller());
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn options_may_be_abbreviated_and_written_in_every_way() {
    let home = Home::open();
    let port = home.port();
    let (decimal, hexadecimal) = (format!("-p{port}"), format!("--port=0x{port:x}"));
    let (octal, binary) = (format!("0{port:o}"), format!("0b{port:b}"));
    expect_service(&home, &["--homedir=home", "-a127.0.0.1", &decimal]);
    expect_service(&home, &["--home", "home", "--add=127.0.0.1", &hexadecimal]);
    expect_service(&home, &["--ho=home", "-a", "127.0.0.1", "--po", &octal]);
    expect_service(&home, &["--homedir", "home", "--addr", "127.0.0.1", "-p", &binary]);
    expect_service(&home, &["--homedir", "home", "--clean", "0", "--log-f=", "-da127.0.0.1", &decimal]);
}

#[test]
fn last_of_repeated_options_takes_effect() {
    let home = Home::open();
    let port = home.port().to_string();
    expect_service(
        &home,
        &["-p", "1", "--homedir", "nowhere/at/all", "-a", "127.0.0.1", "--homedir=home", "-p", &port],
    );
}

#[test]
fn default_homedir_is_in_the_home_directory() {
    let home = Home::open();
    fs::rename(home.directory(), home.parent().join(".pyzor")).unwrap();
    let mut command = home.bare();
    command.env("HOME", home.parent()).args(["-a", "127.0.0.1", "-p", &home.port().to_string()]);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(home.parent().join(".pyzor/pyzord.db").exists());
}

#[test]
fn file_names_are_expanded_and_relative_to_the_homedir() {
    let home = Home::open();
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    config(
        &home,
        &format!(
            "LOGFILE: ~/elsewhere/main.log\nusagelogfile = use.log\nDigestDB = {}/my.db\n[client]\nPort = x\n[SERVER]\nPort = x\n",
            elsewhere.display()
        ),
    );
    let mut command = home.command();
    command.env("HOME", home.parent());
    let mut server = Server::start(&home, command);
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    for path in [elsewhere.join("main.log"), elsewhere.join("my.db"), home.path("use.log")] {
        assert!(path.exists(), "{}", path.display());
    }
    assert!(!home.path("pyzord.db").exists());
}
