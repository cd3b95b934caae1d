//! The command line and the config file.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{Account, DIGEST, Finished, Home, Server, finish, ours_only};

/// Runs the program in this home with just these arguments.
fn run(home: &Home, arguments: &[&str]) -> Finished {
    let mut command = home.bare();
    command.current_dir(home.parent()).args(arguments);
    finish(command)
}

/// Writes the whole config file, on whose first line is the section.
fn config(home: &Home, settings: &str) {
    home.rewrite("config", format!("[server]\n{settings}"));
}

/// Asserts that a server with these arguments and no others serves at the home's port.
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
fn the_last_of_repeated_options_counts() {
    let home = Home::open();
    let port = home.port().to_string();
    expect_service(
        &home,
        &["-p", "1", "--homedir", "nowhere/at/all", "-a", "127.0.0.1", "--homedir=home", "-p", &port],
    );
}

#[test]
fn misuse_of_the_command_line_is_told_with_the_usage() {
    if !ours_only() {
        return;
    }
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
        // New options are spelled in full, so that deployed abbreviations stay what they are.
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
    if !ours_only() {
        return;
    }
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
    // An unknown option still comes first.
    assert_eq!(run(&home, &["--version", "--nosuch"]).code, Some(2));
}

#[test]
fn the_port_is_that_of_the_command_line_or_the_file_or_24441() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let common = ["--homedir", "home", "-a", "127.0.0.1"];
    config(&home, &format!("Port = {}\n", home.port()));
    expect_service(&home, &common);
    config(&home, "Port = 1\n");
    expect_service(&home, &[&common[..], &["-p", &home.port().to_string()]].concat());
    // Whether or not somebody has the port of the standard, it is the one that is tried.
    config(&home, "LogFile = pyzord.log\n");
    let mut command = home.bare();
    command.current_dir(home.parent()).args(common);
    let mut server = Server::start(&home, command);
    crate::harness::eventually("the port", || {
        (home.log().contains("127.0.0.1:24441") || home.stderr().contains("127.0.0.1:24441")).then_some(())
    });
    // It may have ended since somebody else has it.
    let _ = nix::sys::signal::kill(server.process().pid(), Signal::SIGTERM);
    server.ended();
}

#[test]
fn without_a_homedir_it_is_in_the_home() {
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
fn file_names_expand_and_are_taken_from_the_homedir() {
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

#[test]
fn references_and_percent_signs_are_understood() {
    if !ours_only() {
        return;
    }
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

/// Runs `--check-config` and asserts the exit code and that each of these starts a line of stderr, in
/// this order, and nothing else does.
#[track_caller]
fn expect_check(home: &Home, code: i32, lines: &[&str]) -> Finished {
    let before = listing(home);
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    let found: Vec<&str> = finished.stderr.lines().collect();
    let same =
        found.len() == lines.len() && found.iter().zip(lines).all(|(found, line)| found.starts_with(line));
    assert!(finished.code == Some(code) && same, "expected {code}, {lines:#?}\nfound {finished:#?}");
    assert_eq!(listing(home), before, "something was made");
    finished
}

fn listing(home: &Home) -> BTreeSet<String> {
    let entries = fs::read_dir(home.directory()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().display().to_string()).collect()
}

#[test]
fn check_config_approves_of_a_good_configuration_and_starts_nothing() {
    if !ours_only() {
        return;
    }
    let home = Home::open().passwd(Account::new("bob").passwd());
    let _taken = home.take_port();
    let finished = expect_check(&home, 0, &[]);
    assert_ne!(finished.stdout, "");
    // Nor does it create what is missing.
    let mut command = home.bare();
    command.arg("--check-config").arg("--homedir").arg(home.parent().join("new"));
    assert_eq!(finish(command).code, Some(0));
    assert!(!home.parent().join("new").exists());
}

#[test]
fn check_config_leaves_a_running_daemon_alone() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let daemon = home.detach();
    expect_check(&home, 0, &[]);
    assert_eq!(home.log().matches("Starting pyzord server.").count(), 1);
    assert_eq!(home.read("pyzord.pid"), format!("{}\n", daemon.pid()));
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    daemon.stop();
}

#[test]
fn check_config_tells_every_problem_with_file_and_line() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    config(&home, "Port = high\nLogFile = pyzord.log\nPorts = 3\nEngine = GDBM\nCleanupAge = -1\n");
    let file = home.path("config");
    let file = file.display();
    let lines =
        ["warning: {}:4: ", "error: {}:2: Port: ", "error: {}:5: Engine: ", "error: {}:6: CleanupAge: "];
    let lines = lines.map(|line| format!("pyzord: {}", line.replace("{}", &file.to_string())));
    let mut command = home.bare();
    command.arg("--check-config").arg("--homedir").arg(home.directory());
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("3 errors and 1 warning"), "{finished:#?}");
    assert_eq!(finished.stderr.lines().count(), lines.len(), "{finished:#?}");
    for line in lines {
        assert!(finished.stderr.lines().any(|found| found.starts_with(&line)), "no {line}: {finished:#?}");
    }
    assert_eq!(listing(&home), ["config", "pyzord.access"].map(str::to_owned).into());
}

#[test]
fn check_config_tells_what_is_wrong_with_accounts_and_access() {
    if !ours_only() {
        return;
    }
    let home = Home::new().passwd("# accounts\nbob\n").access("check : bob : allow\n\ncheck : bob : maybe\n");
    let (passwd, access) = (home.path("pyzord.passwd"), home.path("pyzord.access"));
    expect_check(
        &home,
        0,
        &[
            &format!("pyzord: warning: {}:2: ", passwd.display()),
            &format!("pyzord: warning: {}:3: ", access.display()),
        ],
    );
    // A folder can be read by nobody.
    fs::remove_file(&passwd).unwrap();
    fs::create_dir(&passwd).unwrap();
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains(passwd.to_str().unwrap()), "{finished:?}");
}

#[test]
fn check_config_looks_at_all_files_even_when_one_is_bad() {
    if !ours_only() {
        return;
    }
    let home = Home::new().passwd("bob\n").access("check : bob : maybe\n");
    config(&home, "CleanupAge = long\n");
    let mut command = home.command();
    command.arg("--check-config");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    for (name, line) in [("config", 2), ("pyzord.passwd", 1), ("pyzord.access", 1)] {
        let place = format!("{}:{line}: ", home.path(name).display());
        assert!(finished.stderr.contains(&place), "nothing about {place}{finished:#?}");
    }
}

#[test]
fn broken_config_files_are_told_with_the_line() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for (text, line) in [
        ("Port = 1\n", 1),
        ("[server]\nPort\n", 2),
        ("[server]\nPort = 1\nport = 2\n", 3),
        ("[server]\nPort = 1\n\n[server]\n", 4),
        ("[server]\n= 3\n", 2),
        ("[server]\nPort = 31310 # comment\n", 2),
        ("[server]\nPort = \"31310\"\n", 2),
        ("[server]\n# comment\nPort = 65536\n", 3),
        ("[server]\nPort = -1\n", 2),
        ("[server]\nCleanupAge = 1d\n", 2),
        ("[server]\nThreads = true\nMaxThreads = -1\n", 3),
        ("[server]\nPreFork = 1\n", 2),
        ("[server]\nPreFork = abc\n", 2),
        ("[server]\nEngine = oracle\n", 2),
        ("[server]\nAccessOrder = middle\n", 2),
        ("[server]\nLogFile = %(Nothing)s\n", 2),
        ("[server]\nThreads = true\nProcesses = true\n", 3),
    ] {
        home.rewrite("config", text);
        let mut command = home.bare();
        command.arg("--homedir").arg(home.directory());
        let place = format!("pyzord: error: {}:{line}: ", home.path("config").display());
        finish(command).expect_line(&[&place]);
    }
    assert!(!home.path("pyzord.db").exists());
}

#[test]
fn bad_values_of_the_command_line_name_their_option() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for (option, value) in [
        ("--port", "65536"),
        ("--cleanup-age", "-1"),
        ("--cleanup-age", "long"),
        ("--database-engine", "GDBM"),
        ("--pre-fork", "1"),
        ("--access-order", "middle"),
        ("--forward-client-homedir", "client"),
    ] {
        run(&home, &["--homedir", "home", option, value])
            .expect_line(&[&format!("pyzord: error: {option}: ")]);
    }
}

#[test]
fn all_problems_are_told_at_once() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    config(&home, "Port = x\nCleanupAge = y\nPidFile = p\n");
    let mut command = home.bare();
    command.arg("--homedir").arg(home.directory()).args(["--pre-fork", "1", "--detach", "/dev/null"]);
    let finished = finish(command);
    assert_eq!(finished.code, Some(1));
    let file = home.path("config");
    let lines: BTreeSet<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{finished:#?}");
    for place in [
        format!("{}:2: Port: ", file.display()),
        format!("{}:3: CleanupAge: ", file.display()),
        "--pre-fork: ".into(),
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("pyzord: error: {place}"))),
            "{place}{finished:#?}"
        );
    }
    // What the command line overrides does not matter.
    let port = home.port().to_string();
    expect_service(&home, &["--homedir", "home", "-a", "127.0.0.1", "-p", &port, "--cleanup-age", "0"]);
}

#[test]
fn an_unknown_option_of_the_file_is_a_warning_with_the_nearest_name() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    config(&home, "LogFile = pyzord.log\nPasswordFile = x\n");
    let warning = format!("{}:3: ", home.path("config").display());
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    let stderr: Vec<&str> = finished.stderr.lines().collect();
    assert!(
        matches!(stderr[..], [line] if line.contains(&warning) && line.contains("PasswdFile")),
        "{stderr:?}"
    );
    home.daemon().stop();
    let log = home.log();
    assert!(log.lines().any(|line| line.contains(" WARNING ") && line.contains(&warning)), "{log}");
}

#[test]
fn differing_access_orders_are_a_warning_unless_one_was_chosen() {
    if !ours_only() {
        return;
    }
    let home = Home::new().access("check : anonymous : deny\ncheck ping : anonymous : allow\n");
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    assert!(finished.stderr.contains("pyzord.access") && finished.stderr.contains("check"), "{finished:?}");
    assert_eq!(home.caller().answered("check", &[DIGEST]).code(), 403);
    home.daemon().stop();
    for (order, code) in [("first", 403), ("last", 200)] {
        let mut command = home.detached();
        command.args(["--access-order", order]);
        let daemon = home.detach_with(command);
        assert_eq!(home.caller().answered("check", &[DIGEST]).code(), code);
        daemon.stop();
    }
}

#[test]
fn options_without_effect_are_accepted_and_said_to_be_so() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    config(
        &home,
        "LogFile = pyzord.log\nThreads = True\nMaxThreads = 4\nPreFork = 4\nMaxProcesses = 3\nDBConnections = 9\n\
         Gevent = True\nSentryDSN = https://secret@sentry.example/1\nUsageSentryLogLevel = INFO\n",
    );
    let finished = finish(home.detached());
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.stderr.lines().filter(|line| line.contains("Sentry")).count(), 1, "{finished:?}");
    home.daemon().stop();
    let log = home.log();
    assert_eq!(log.lines().filter(|line| line.contains("PreFork")).count(), 1, "{log}");
    assert!(!finished.stderr.contains("secret") && !log.contains("secret"));
}

#[test]
fn the_words_of_the_system_are_not_needed() {
    if !ours_only() {
        return;
    }
    // An environment without anything, as some init systems give it.
    let home = Home::open();
    let mut command = Command::new("env");
    command.arg("-i").arg(format!("PYZORD_TEST_SITE={}", home.parent().display()));
    let served = home.command();
    command.arg(served.get_program()).args(served.get_args()).args(["--detach", "/dev/null"]);
    let daemon = home.detach_with(command);
    daemon.stop();
}
