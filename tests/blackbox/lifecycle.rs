//! How a server starts, goes into the background, takes signals and ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, getsid};

use crate::harness::{
    Account, DIGEST, Home, Ledger, Server, StopFlag, digest, eventually, finish, ours_only,
};

#[test]
fn detaching_returns_when_the_daemon_answers() {
    if !ours_only() {
        return;
    }
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
fn a_daemon_keeps_nothing_of_its_caller() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    // Descriptor 77 is the caller's pipe, at whose end `finish` waits for the daemon to let it go.
    let daemon = home.detach_with(home.under("exec \"$@\" 77>&1 78</etc/hostname", true));
    let descriptors = daemon.descriptors();
    for number in 0..=2 {
        assert_eq!(descriptors[&number], "/dev/null", "{descriptors:?}");
    }
    assert!(!descriptors.contains_key(&77) && !descriptors.contains_key(&78), "{descriptors:?}");
    // The one through which it said that it is ready is closed behind that word.
    eventually("no pipe is left open", || {
        let descriptors = daemon.descriptors();
        (!descriptors.values().any(|target| target.starts_with("pipe:"))).then_some(())
    });
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap().to_str(), Some("/"));
    assert_eq!(daemon.stat(7), 0, "it has a terminal");
    let session = getsid(Some(daemon.pid())).unwrap();
    assert_ne!(session, getsid(None).unwrap());
    assert_ne!(session, daemon.pid(), "a session's leader can get a terminal by opening one");
    daemon.stop();
}

#[test]
fn files_are_for_their_owner_alone_whatever_the_umask() {
    if !ours_only() {
        return;
    }
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
fn a_missing_homedir_is_created_for_its_owner_alone() {
    if !ours_only() {
        return;
    }
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
fn relative_names_are_found_from_the_background() {
    if !ours_only() {
        return;
    }
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
    // Reloading finds them, too.
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
fn the_homedir_may_be_the_working_directory() {
    if !ours_only() {
        return;
    }
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
fn term_and_int_end_it_safely() {
    if !ours_only() {
        return;
    }
    for (signal, name) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGINT, "SIGINT")] {
        let home = Home::open();
        let daemon = home.detach();
        let mut caller = home.caller();
        for number in 0..100 {
            assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
        }
        daemon.signal(signal);
        daemon.ended();
        assert!(!home.path("pyzord.pid").exists());
        assert_eq!(home.stored().len(), 100);
        let log = home.log();
        // What the engine does by itself is told whenever it is done.
        let last: Vec<&str> = log.lines().rev().filter(|line| !line.contains(" Expired ")).take(2).collect();
        assert!(last[1].ends_with(&format!(" INFO {name} received. Shutting down.")), "{log}");
        assert!(last[0].ends_with(" INFO Server shutdown."), "{log}");
        // The database was closed, so that the next start has nothing to repair.
        assert!(!home.path("pyzord.db.open").exists());
        home.detach().stop();
        let log = home.log();
        assert!(!log.contains("was not closed"), "{log}");
    }
}

#[test]
fn a_stop_writes_the_database_to_its_disk() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let mut command = home.detached();
    command.arg("-d");
    let daemon = home.detach_with_debug(command);
    assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
    daemon.stop();
    let log = home.log();
    let stopping = log.find("SIGTERM received").unwrap();
    assert!(log[stopping..].contains(" DEBUG The database has been written to its disk."), "{log}");
}

#[test]
fn in_the_foreground_term_and_int_end_it_with_success() {
    if !ours_only() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = Home::open();
        let mut server = Server::start(&home, home.command());
        server.serves(&mut home.caller());
        assert!(!home.path("pyzord.pid").exists(), "a pid file is for the background");
        server.process().signal(signal);
        assert_eq!(server.ended().code(), Some(0));
        assert_eq!(home.stderr(), "");
    }
}

#[test]
fn what_had_arrived_before_the_end_is_answered() {
    if !ours_only() {
        return;
    }
    const REQUESTS: u32 = 100;
    let home = Home::open();
    let daemon = home.detach();
    let caller = home.caller();
    // While it stands still, requests gather in its socket.
    daemon.signal(Signal::SIGSTOP);
    for number in 0..REQUESTS {
        caller.send("report", &[&digest(number)], 2000 + number);
    }
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    for _ in 0..REQUESTS {
        let reply = caller.receive(Duration::from_secs(10)).expect("a reply to everything that had arrived");
        assert_eq!(reply.code(), 200);
    }
    daemon.ended();
    assert_eq!(home.stored().len(), 100);
}

#[test]
fn stopping_under_load_keeps_every_acknowledged_report() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for _ in 0..3 {
        let before = if home.path("pyzord.db").exists() { home.stored() } else { Default::default() };
        let daemon = home.detach();
        let over = StopFlag::default();
        let ledger = thread::scope(|scope| {
            let guard = over.set_on_drop();
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| report_until(&home, &over))).collect();
            eventually("some reports", || {
                (home.caller().count(&digest(3)) > before_count(&before, 3) + 20).then_some(())
            });
            daemon.stop();
            drop(guard);
            let mut ledger = Ledger::default();
            clients.into_iter().for_each(|client| ledger.add(client.join().unwrap()));
            ledger
        });
        let mut stored = home.stored();
        stored
            .iter_mut()
            .for_each(|(digest, count)| *count -= before.get(digest).copied().unwrap_or_default());
        assert!(ledger.acknowledged() > 20);
        ledger.compare(&stored);
    }
}

fn before_count(before: &std::collections::BTreeMap<String, i64>, number: u32) -> i64 {
    before.get(&digest(number)).copied().unwrap_or_default()
}

fn report_until(home: &Home, over: &StopFlag) -> Ledger {
    let mut ledger = Ledger::default();
    let mut caller = home.caller();
    for number in (0..7).cycle() {
        if over.is_set() {
            break;
        }
        let reply = caller.ask("report", &[&digest(number)], Duration::from_millis(300));
        ledger.enter(&digest(number), reply.as_ref());
        if reply.is_none() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    ledger
}

/// Starts a server and sends it a signal as soon as it can take one, or a little later.
fn signalled_while_starting(signal: Signal, pause: Duration) -> (Home, Server) {
    let home = Home::open();
    let server = Server::start(&home, home.command());
    // From the log file on signals wait until there is somebody to take them; before it, the process
    // may not have reached its main yet.
    let deadline = Instant::now() + Duration::from_secs(15);
    while !home.path("pyzord.log").exists() {
        assert!(Instant::now() < deadline, "no log file");
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < pause {
        std::hint::spin_loop();
    }
    server.process().signal(signal);
    (home, server)
}

/// Pauses that hit every part of a start.
fn pauses() -> impl Iterator<Item = Duration> {
    (0..24).map(|step| Duration::from_micros(step * step * 15))
}

#[test]
fn a_stop_at_any_moment_of_the_start_is_a_safe_stop() {
    if !ours_only() {
        return;
    }
    for pause in pauses() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (home, mut server) = signalled_while_starting(signal, pause);
            assert_eq!(server.ended().code(), Some(0), "{signal} after {pause:?}");
            assert_eq!(home.stderr(), "");
        }
    }
}

#[test]
fn a_reload_at_any_moment_of_the_start_harms_nothing() {
    if !ours_only() {
        return;
    }
    for pause in pauses() {
        for signal in [Signal::SIGUSR1, Signal::SIGHUP] {
            let (home, mut server) = signalled_while_starting(signal, pause);
            server.serves(&mut home.caller());
            server.process().signal(Signal::SIGTERM);
            assert_eq!(server.ended().code(), Some(0), "{signal} after {pause:?}");
        }
    }
}

#[test]
fn starting_twice_names_the_one_that_runs() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let daemon = home.detach();
    let running = format!("already running (pid {})", daemon.pid());
    finish(home.detached()).expect_line(&[&running]);
    assert_eq!(home.read("pyzord.pid"), format!("{}\n", daemon.pid()));
    assert_eq!(home.caller().answered("ping", &[]).code(), 200);
    // On another port it is the same: the pid file belongs to the homedir.
    let mut elsewhere = home.detached();
    elsewhere.args(["-p", "0"]);
    finish(elsewhere).expect_line(&[&running]);
    assert_eq!(home.processes(), [daemon.pid()]);
    daemon.stop();
}

#[test]
fn a_stale_pid_file_is_replaced() {
    if !ours_only() {
        return;
    }
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

/// Asserts that `--detach` fails with one line that has these texts in it and leaves nothing behind.
#[track_caller]
fn expect_failure(home: &Home, command: Command, texts: &[&str]) {
    finish(command).expect_line(texts);
    home.expect_no_process();
    assert!(!home.path("pyzord.pid").is_file(), "the pid file is left");
}

#[test]
fn a_taken_port_fails_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let _taken = home.take_port();
    expect_failure(&home, home.detached(), &[&format!("127.0.0.1:{}", home.port())]);
    assert!(home.log().contains(&home.port().to_string()), "the log says nothing");
}

/// The database is open by then, and must be closed like at any other stop.
#[test]
fn a_stop_while_the_port_is_waited_for_closes_the_database() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let _taken = home.take_port();
    let mut server = Server::start(&home, home.command());
    eventually("the database is open", || home.path("pyzord.db.open").exists().then_some(()));
    server.process().signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert!(!home.path("pyzord.db.open").exists(), "the next start would repair it");
}

#[test]
fn a_garbage_database_fails_the_start_and_is_left_alone() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for garbage in ["nonsense".repeat(5000), "short".into()] {
        home.rewrite("pyzord.db", &garbage);
        expect_failure(&home, home.detached(), &[home.path("pyzord.db").to_str().unwrap()]);
        assert_eq!(home.read("pyzord.db"), garbage);
    }
}

#[test]
fn an_empty_database_file_is_a_new_database() {
    let home = Home::open();
    home.rewrite("pyzord.db", "");
    let mut server = Server::start(&home, home.command());
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    assert_eq!(caller.count(DIGEST), 1);
}

#[test]
fn a_database_that_somebody_else_has_open_fails_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    home.detach().stop();
    let mut python = home.mark(Command::new("/usr/bin/python3"));
    python.args(["-c", "import dbm.gnu, sys\nd = dbm.gnu.open(sys.argv[1], 'w')\nprint('open', flush=True)\nsys.stdin.read()"]);
    let mut holder =
        python.arg(home.path("pyzord.db")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "open\n", "run tests/setup.sh");
    let path = home.path("pyzord.db");
    finish(home.detached()).expect_line(&[path.to_str().unwrap(), &format!("process {}", holder.id())]);
    assert!(!home.path("pyzord.pid").exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    home.detach().stop();
}

#[test]
fn bad_settings_fail_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    home.rewrite("config", "[server]\nCleanupAge = long\n");
    expect_failure(&home, home.detached(), &["config", "2", "CleanupAge", "long"]);
    assert!(!home.path("pyzord.db").exists());
}

#[test]
fn files_that_cannot_be_written_fail_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let nowhere = home.parent().join("missing/file");
    let nowhere = nowhere.to_str().unwrap();
    for option in ["--pid-file", "--log-file", "--usage-log-file", "--dsn", "--detach"] {
        let mut command = home.detached();
        command.args([option, nowhere]);
        expect_failure(&home, command, &[nowhere]);
    }
    // A folder in their place.
    let folder = home.parent().join("in-the-way");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    for option in [
        "--pid-file",
        "--log-file",
        "--usage-log-file",
        "--dsn",
        "--detach",
        "--password-file",
        "--access-file",
    ] {
        let mut command = home.detached();
        command.args([option, folder]);
        expect_failure(&home, command, &[folder]);
    }
}

#[test]
fn an_address_of_nobody_fails_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    // 192.0.2.0/24 is for documentation and belongs to nobody.
    let mut command = home.detached();
    command.args(["-a", "192.0.2.1"]);
    let finished = finish(command);
    // It has been waited for, with lines that say so.
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert!(finished.code == Some(1) && finished.stdout.is_empty(), "{finished:?}");
    assert!(last.contains("error: cannot listen on 192.0.2.1:"), "{finished:?}");
    home.expect_no_process();
}

#[test]
fn a_homedir_that_cannot_be_created_fails_the_start() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for (homedir, there) in [("missing/home", false), ("a-file", true)] {
        let homedir = home.parent().join(homedir);
        if there {
            fs::write(&homedir, "").unwrap();
        }
        let mut command = home.detached();
        command.arg("--homedir").arg(&homedir);
        expect_failure(&home, command, &[homedir.to_str().unwrap()]);
    }
}

#[test]
fn a_killed_daemon_is_replaced_at_once() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    for (round, remove) in [(1, true), (2, false), (3, true), (4, false)] {
        let daemon = home.detach();
        let mut caller = home.caller();
        assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
        assert_eq!(caller.count(DIGEST), round);
        // Not waiting for its end is the point: this is what restart scripts do.
        daemon.signal(Signal::SIGKILL);
        if remove {
            fs::remove_file(home.path("pyzord.pid")).unwrap();
        }
    }
    assert_eq!(count_after_start(&home), 4);
}

/// Starts a server once more and returns the count of the digest.
fn count_after_start(home: &Home) -> i64 {
    let daemon = home.detach();
    let count = home.caller().count(DIGEST);
    daemon.stop();
    count
}

#[test]
fn a_start_waits_for_the_one_that_is_stopping() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let mut daemon = home.detach();
    for round in 0..5 {
        assert_eq!(home.caller().answered("report", &[DIGEST]).code(), 200);
        daemon.signal(Signal::SIGTERM);
        let next = home.detach();
        assert_ne!(next.pid(), daemon.pid());
        daemon.ended();
        assert_eq!(
            home.read("pyzord.pid"),
            format!("{}\n", next.pid()),
            "the old one took the new pid file away"
        );
        assert_eq!(home.caller().count(DIGEST), round + 1);
        daemon = next;
    }
    daemon.stop();
}

#[test]
fn hup_opens_the_logs_again_and_reloads() {
    if !ours_only() {
        return;
    }
    let account = Account::new("bob");
    let home = Home::new().passwd("").access("ping report : anonymous bob : allow\n");
    let server = home.start();
    assert_eq!(server.request("ping", &[]).code(), 200);
    let old = "usage.log.1";
    eventually("the first usage line", || home.read("usage.log").contains(",ping,").then_some(()));
    for name in ["pyzord.log", "usage.log"] {
        fs::rename(home.path(name), home.path(format!("{name}.1"))).unwrap();
    }
    home.rewrite("pyzord.passwd", account.passwd());
    server.signal(Signal::SIGHUP);
    eventually("the new account", || (server.request_as(&account, "ping", &[]).code() == 200).then_some(()));
    // Lines that were waiting to be written still go to the old files.
    eventually("new logs", || {
        server.signal(Signal::SIGUSR1);
        assert_eq!(server.request_as(&account, "ping", &[]).code(), 200);
        let usage = home.read("usage.log").contains("bob,127.0.0.1,ping,None,200");
        (usage && !home.log().is_empty()).then_some(())
    });
    let old_usage = home.read(old);
    assert_eq!(server.request_as(&account, "report", &[DIGEST]).code(), 200);
    eventually("a line in the new usage log", || home.read("usage.log").contains(",report,").then_some(()));
    assert_eq!(home.read(old), old_usage, "the old usage log is still written");
    let mode = fs::metadata(home.path("usage.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.log().contains("Server shutdown."));
    assert!(!home.read("pyzord.log.1").contains("Server shutdown."));
}

#[test]
fn a_log_that_cannot_be_opened_again_is_written_on() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let server = home.start();
    let log = home.path("pyzord.log");
    fs::rename(&log, home.path("moved")).unwrap();
    fs::create_dir(&log).unwrap();
    server.signal(Signal::SIGHUP);
    eventually("an error in the old log", || {
        let text = home.read("moved");
        text.lines().any(|line| line.contains(" ERROR ") && line.contains("pyzord.log")).then_some(())
    });
    assert_eq!(server.request("ping", &[]).code(), 200);
    assert_eq!(server.stop().code(), Some(0));
    assert!(home.read("moved").contains("Server shutdown."));
}

#[test]
fn a_storm_of_signals_under_load_loses_no_reply() {
    if !ours_only() {
        return;
    }
    const REPORTS: u32 = 1500;
    let home = Home::open();
    let daemon = home.detach();
    let over = StopFlag::default();
    thread::scope(|scope| {
        let guard = over.set_on_drop();
        let storm = scope.spawn(|| {
            let mut signals = 0;
            while !over.is_set() {
                daemon.signal(if signals % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
                signals += 1;
                thread::sleep(Duration::from_micros(300));
            }
            signals
        });
        let mut caller = home.caller();
        for number in 0..REPORTS {
            assert_eq!(caller.answered("report", &[&digest(number % 10)]).code(), 200);
        }
        drop(guard);
        assert!(storm.join().unwrap() > 20);
    });
    daemon.stop();
    assert_eq!(home.stored().values().sum::<i64>(), i64::from(REPORTS));
    assert_eq!(home.read("usage.log").lines().count(), REPORTS as usize);
}

#[test]
fn a_new_account_works_and_a_removed_one_stops_while_requests_flow() {
    if !ours_only() {
        return;
    }
    let (old, new) = (Account::new("old"), Account::new("new"));
    let home = Home::new().access("all : all anonymous : allow\n").passwd(old.passwd());
    let server = home.start();
    assert_eq!(server.request_as(&old, "report", &[DIGEST]).code(), 200);
    assert_eq!(server.request_as(&new, "report", &[DIGEST]).code(), 401);
    home.rewrite("pyzord.passwd", new.passwd());
    server.signal(Signal::SIGUSR1);
    let mut anonymous = 0;
    eventually("the new account", || {
        assert_eq!(server.request("report", &[DIGEST]).code(), 200);
        anonymous += 1;
        (server.request_as(&new, "ping", &[]).code() == 200).then_some(())
    });
    assert_eq!(server.request_as(&old, "report", &[DIGEST]).code(), 401);
    assert_eq!(server.request("check", &[DIGEST]).counts().0, anonymous + 1);
}

#[test]
fn niceness_is_added() {
    let home = Home::open();
    let own = own_niceness();
    let mut command = home.command();
    command.args(["--nice", "5"]);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    assert_eq!(server.process().stat(19), (own + 5).min(19));
}

fn own_niceness() -> i64 {
    let line = fs::read_to_string("/proc/self/stat").unwrap();
    line.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn a_refused_niceness_is_a_warning() {
    if !ours_only() {
        return;
    }
    let home = Home::open().unprivileged().arguments(&["--nice", "-5"]);
    let server = home.start();
    assert_eq!(server.request("ping", &[]).code(), 200);
    let warned = |line: &str| line.contains(" WARNING ") && line.contains("nice");
    eventually("a warning", || home.log().lines().any(warned).then_some(()));
    eventually("the same for whoever started it", || home.stderr().contains("nice").then_some(()));
    if Uid::effective().is_root() {
        drop(server);
        let home = Home::open().arguments(&["--nice", "-1"]);
        let _server = home.start();
        assert!(!home.log().contains("WARNING"));
    }
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    if !ours_only() {
        return;
    }
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
fn what_a_daemon_prints_goes_to_the_file_of_detach() {
    if !ours_only() {
        return;
    }
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
fn the_usage_log_may_be_the_output_of_the_process() {
    if !ours_only() {
        return;
    }
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
fn on_a_terminal_one_line_says_where_it_listens() {
    if !ours_only() {
        return;
    }
    let home = Home::open();
    let server = home.command();
    let words: Vec<_> = std::iter::once(server.get_program()).chain(server.get_args()).collect();
    let line = words.join(std::ffi::OsStr::new(" "));
    // script gives its command a terminal, and copies what is written to that.
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
