//! Values of options, and command lines that print something instead of starting the server.

use std::collections::BTreeSet;
use std::process::Command;

use nix::sys::signal::Signal;

use super::run;
use crate::harness::{Home, Server, finish};
use crate::options::{config, expect_service};

#[test]
fn misuse_of_the_command_line_is_reported_with_the_usage() {
    let home = Home::open();
    let all_p = "--password-file, --pid-file, --port, --pre-fork, --processes";
    for (arguments, text) in [
        (&["--nosuch"][..], "no such option: --nosuch"),
        (&["--nosuch=1"], "no such option: --nosuch"),
        (&["--nosuch", "1"], "no such option: --nosuch"),
        (&["-x"], "no such option: -x"),
        (&["--p", "1"], &format!("ambiguous option: --p ({all_p}?)")),
        (&["-p", "abc"], "option -p: invalid integer value: 'abc'"),
        (&["--port=1.5"], "option --port: invalid integer value: '1.5'"),
        (&["--nice", ""], "option --nice: invalid integer value: ''"),
        (&["--max-threads", "many"], "option --max-threads: invalid integer value: 'many'"),
        // Options that the Python server lacks have no abbreviations: deployed ones must stay unambiguous.
        (&["--check"], "no such option: --check"),
        (&["--access-o", "last"], "no such option: --access-o"),
    ] {
        let finished = run(&home, arguments);
        let expected = format!("Usage: pyzord [options]\n\npyzord: error: {text}\n");
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(2), expected.as_str()), "{arguments:?}");
        assert_eq!(finished.stdout, "");
    }
    for arguments in
        [&["start"][..], &["--homedir", "home", "start"], &["--port"], &["--debug=1"], &["-p"], &["--", "x"]]
    {
        let finished = run(&home, arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.starts_with("Usage: pyzord [options]\n\npyzord: error: "), "{finished:?}");
        assert_eq!(finished.stderr.lines().count(), 3);
    }
    assert!(!home.path("pyzord.db").exists());
}

#[test]
fn version_and_help_are_printed_and_nothing_is_started() {
    let home = Home::open();
    let version = format!("pyzord {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [&["--version"][..], &["-V"], &["--vers"], &["-V", "--homedir", "missing/home"]] {
        let finished = run(&home, arguments);
        assert_eq!(
            (finished.code, finished.stdout, finished.stderr),
            (Some(0), version.clone(), String::new())
        );
    }
    let options = [
        "help",
        "nice",
        "debug",
        "homedir",
        "address",
        "port",
        "database-engine",
        "dsn",
        "gevent",
        "threads",
        "max-threads",
        "processes",
        "max-processes",
        "db-connections",
        "pre-fork",
        "password-file",
        "access-file",
        "cleanup-age",
        "log-file",
        "usage-log-file",
        "pid-file",
        "forward-client-homedir",
        "detach",
        "version",
        "access-order",
        "check-config",
    ];
    for arguments in [&["--help"][..], &["-h"], &["--hel"]] {
        let finished = run(&home, arguments);
        let begin = "Usage: pyzord [options]\n\nListen for and process incoming Pyzor connections.\n";
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
        assert!(finished.stdout.starts_with(begin), "{}", finished.stdout);
        let words: BTreeSet<&str> = finished.stdout.split([' ', ',', '\n', '=']).collect();
        for option in options {
            assert!(words.contains(format!("--{option}").as_str()), "--{option} is not in the help");
        }
    }
    // An unknown option is reported first.
    assert_eq!(run(&home, &["--version", "--nosuch"]).code, Some(2));
}

#[test]
fn port_is_from_the_command_line_or_the_file_or_24441() {
    let home = Home::open();
    let common = ["--homedir", "home", "-a", "127.0.0.1"];
    config(&home, &format!("Port = {}\n", home.port()));
    expect_service(&home, &common);
    config(&home, "Port = 1\n");
    expect_service(&home, &[&common[..], &["-p", &home.port().to_string()]].concat());
    // The server tries the default port, whether it is free or not.
    config(&home, "LogFile = pyzord.log\n");
    let mut command = home.bare();
    command.current_dir(home.parent()).args(common);
    let mut server = Server::start(&home, command);
    crate::harness::eventually("the port", || {
        (home.log().contains("127.0.0.1:24441") || home.stderr().contains("127.0.0.1:24441")).then_some(())
    });
    // The server may have exited because the port is in use.
    let _ = nix::sys::signal::kill(server.process().pid(), Signal::SIGTERM);
    server.ended();
}

#[test]
fn references_and_percent_signs_are_replaced() {
    let home = Home::open();
    config(
        &home,
        "LogFile = main.log\nUsageLogFile = %(LogFile)s.usage\nDigestDB = 100%.db\nPidFile = a%%b.pid\n",
    );
    let finished = finish(home.detached());
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    for name in ["main.log.usage", "100%.db", "a%b.pid"] {
        assert!(home.path(name).exists(), "{name}");
    }
}

#[test]
fn environment_variables_are_not_needed() {
    // An empty environment, as some init systems provide.
    let home = Home::open();
    let mut command = Command::new("env");
    command.arg("-i").arg(format!("PYZORD_TEST_SITE={}", home.parent().display()));
    let served = home.command();
    command.arg(served.get_program()).args(served.get_args()).args(["--detach", "/dev/null"]);
    let daemon = home.detach_with(command);
    daemon.stop();
}
