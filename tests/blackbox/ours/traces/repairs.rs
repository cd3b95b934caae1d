//! Repairs and stops in which a system call fails or is slow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Home, Process, Server, digest, eventually, finish};
use crate::ours::repairs::{REPAIRED, expect_only_database, marker_of, names, owe_repair, small};

/// The system calls with which a repair reads and changes files.
const CALLS: &str = "openat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,ftruncate,fallocate,fsync,fdatasync,\
                     msync,pwrite64,write,pread64,read,lseek,fchmod,fchown,flock,fstat,newfstatat,statx,statfs,fstatfs";
const ERRORS: [&str; 3] = ["ENOSPC", "EIO", "EACCES"];

/// Exit code of a program whose libraries cannot be loaded.
const LOADER: i32 = 127;

/// Returns a command for a server in the foreground under strace with these options.
fn traced(home: &Home, options: &str, arguments: &str) -> Command {
    let trace = trace(home);
    home.under(&format!("exec strace -f -y -qq -o '{}' {options} \"$@\" {arguments}", trace.display()), false)
}

fn trace(home: &Home) -> PathBuf {
    home.parent().join("trace")
}

/// Replaces the database and everything beside it by this file and a marker that requires a repair.
fn put(home: &Home, file: &[u8]) {
    for name in names(&home.directory(), "pyzord.db") {
        fs::remove_file(home.path(&name)).unwrap();
    }
    fs::write(home.path("pyzord.db"), file).unwrap();
    owe_repair(&home.path("pyzord.db"));
}

/// Runs a command until it serves or ends, and stops it. Returns the lines about repairs and problems and, if it did
/// not serve, its exit code.
fn outcome(home: &Home, command: Command) -> (String, Option<Option<i32>>) {
    let (log, stderr) = (home.log().len(), home.stderr().len());
    let mut tracer = Server::start(home, command);
    let mut caller = home.caller();
    let serves = eventually("a reply or the end", || {
        if !tracer.is_running() {
            return Some(false);
        }
        caller.ask("ping", &[], Duration::from_millis(20)).map(|_| true)
    });
    if serves {
        tracer.process().child().signal(Signal::SIGTERM);
    }
    let status = tracer.ended();
    let said = format!("{}{}", &home.log()[log..], &home.stderr()[stderr..]);
    let is_relevant = |line: &&str| !line.contains(" INFO ") || line.contains(REPAIRED);
    let said = said.lines().filter(is_relevant).collect::<Vec<_>>().join("\n");
    (said, (!serves).then(|| status.code()))
}

/// Returns the calls of a repair that concern the database: for each name the ordinal numbers within the thread. Calls
/// of `write` are numbered among those to the files of the database, because other threads are woken by it too, at
/// times that differ between runs.
fn calls_of_a_repair(home: &Home) -> BTreeMap<String, BTreeSet<usize>> {
    let text = fs::read_to_string(trace(home)).unwrap();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut calls: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else { continue };
        let is_call = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_call {
            continue;
        }
        // The arguments of msync are addresses.
        let is_relevant = arguments.contains("pyzord.db") || name == "msync";
        if name == "write" && !is_relevant {
            continue;
        }
        let count = counts.entry((thread, name)).or_default();
        *count += 1;
        if is_relevant {
            calls.entry(name.to_owned()).or_default().insert(*count);
        }
    }
    calls
}

/// Returns the options of strace that limit it to the files to which a repair has written.
fn written_files(home: &Home) -> String {
    let text = fs::read_to_string(trace(home)).unwrap();
    let writes = text.lines().filter(|line| line.contains(" write("));
    let targets = writes.filter_map(|line| Some(line.split_once('<')?.1.split_once('>')?.0));
    let files: BTreeSet<&str> = targets.filter(|target| target.contains("pyzord.db")).collect();
    files.into_iter().map(|file| format!(" -P '{file}'")).collect()
}

/// Makes each system call of a repair fail in turn. Each message must give the reason, nothing may be lost, and the
/// next start must complete the repair.
fn fail_each_call(arguments: &str) {
    let (home, stored) = small();
    let file = fs::read(home.path("pyzord.db")).unwrap();
    put(&home, &file);
    let (said, ended) = outcome(&home, traced(&home, &format!("-e trace={CALLS}"), arguments));
    assert!(matches!(ended, None | Some(Some(0))), "{said}");
    let calls = calls_of_a_repair(&home);
    assert!(!calls.is_empty());
    let written = written_files(&home);
    let all = std::env::var_os("PYZORD_CALL_STRIDE").is_some_and(|stride| stride == "1");
    // Number of the first and of the last calls of one name that fail.
    let of_each = if all { 4 } else { 2 };
    let (mut runs, mut ends, mut wrong) = (0, 0, Vec::new());
    for (call, numbers) in &calls {
        let numbers: Vec<usize> = numbers.iter().copied().collect();
        let first = numbers.iter().take(of_each);
        let last = numbers.iter().skip(of_each.max(numbers.len().saturating_sub(of_each)));
        for (place, number) in first.chain(last).enumerate() {
            // Every error for each call, or a different one for each.
            let errors = if all { &ERRORS[..] } else { &ERRORS[place % ERRORS.len()..][..1] };
            for error in errors {
                put(&home, &file);
                let limit = if call == "write" { &written } else { "" };
                let options = format!("-e trace={call}{limit} -e inject={call}:error={error}:when={number}");
                let what = format!("{call} {number}, {error}");
                let (said, ended) = outcome(&home, traced(&home, &options, arguments));
                if ended == Some(Some(LOADER)) {
                    // The dynamic loader made the call of this number.
                    continue;
                }
                runs += 1;
                if said.contains("No error") || said.contains("Success") || said.contains("os error 0") {
                    wrong.push(format!("{what}: the message has no reason: {said}"));
                }
                if let Some(code) = ended {
                    ends += 1;
                    let is_reported = code == Some(0) || said.contains("pyzord: error: ");
                    if !is_reported || !matches!(code, Some(0 | 1)) {
                        wrong.push(format!("{what}: it ended with {code:?}: {said}"));
                    }
                }
                let finished = finish(home.detached());
                if finished.code != Some(0) {
                    wrong.push(format!("{what}: the next start failed: {finished:?} after {said}"));
                    continue;
                }
                home.daemon().stop();
                let records = home.stored();
                if records != stored {
                    wrong.push(format!(
                        "{what}: {} of {} records are left: {said}",
                        records.len(),
                        stored.len()
                    ));
                }
                let mut left = names(&home.directory(), "pyzord.db");
                left.retain(|name| !name.starts_with("pyzord.db.broken-"));
                // A file that could not be removed must be named in the log.
                left.retain(|name| !call.starts_with("unlink") || !said.contains(name.as_str()));
                left.remove("pyzord.db");
                if !left.is_empty() {
                    wrong.push(format!("{what}: {left:?} are left behind: {said}"));
                }
            }
        }
    }
    println!("{runs} calls of {} names failed: {ends} starts or recoveries ended", calls.len());
    assert!(wrong.is_empty(), "{} of {runs} runs are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn call_that_fails_in_a_repair_is_reported_with_its_error() {
    fail_each_call("");
}

#[test]
fn call_that_fails_in_a_recovery_is_reported_with_its_error() {
    fail_each_call("--recover");
}

/// A Python script that tries to open the database for writing, as the established server does, until that succeeds.
/// Prints a line at the first refusal, and a line at the end that reports whether there was a marker.
const OPENING: &str = "
import dbm.gnu, errno, os, sys, time
database, marker = sys.argv[1:]
refusals = 0
while True:
    try:
        opened = dbm.gnu.open(database, 'w')
    except dbm.gnu.error as error:
        if error.args[0] != errno.EAGAIN:
            print('failed', error)
            break
        if not refusals:
            print('refused', flush=True)
        refusals += 1
        time.sleep(0.001)
        continue
    print('marked' if os.path.exists(marker) else 'closed')
    break
";

fn opening(home: &Home) -> Command {
    let database = home.path("pyzord.db");
    let mut python = home.mark(Command::new("/usr/bin/python3"));
    python.args(["-c", OPENING]).arg(&database).arg(marker_of(&database)).stdout(Stdio::piped());
    python
}

/// Starts a server under strace with slow calls, and reports once. Returns the strace and the server.
fn slow(home: &Home, calls: &str, milliseconds: u32) -> (Server, Process) {
    let options = format!("-e trace={calls} -e inject={calls}:delay_enter={milliseconds}000");
    let mut tracer = Server::start(home, traced(home, &options, ""));
    let mut caller = home.caller();
    tracer.serves(&mut caller);
    assert_eq!(caller.answered("report", &[&digest(1)]).code(), 200);
    let server = tracer.process().child();
    (tracer, server)
}

#[test]
fn database_stays_locked_until_the_marker_is_removed() {
    let mut opened = BTreeMap::new();
    let slow_calls = ["unlink,unlinkat", "fsync,fdatasync", "ftruncate", "msync", "flock", "close"];
    for calls in slow_calls {
        let (home, stored) = small();
        let milliseconds = if calls == "close" { 20 } else { 400 };
        let (mut tracer, server) = slow(&home, calls, milliseconds);
        let mut other = opening(&home).spawn().unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "refused", "{calls}");
        server.signal(Signal::SIGTERM);
        opened.insert(calls, lines.next().unwrap().unwrap());
        assert!(other.wait().unwrap().success());
        assert_eq!(tracer.ended().code(), Some(0));
        expect_only_database(&home);
        assert_eq!(home.stored()[&digest(1)], stored[&digest(1)] + 1, "{calls}");
    }
    let expected = slow_calls.map(|calls| (calls, "closed".to_owned())).into();
    assert_eq!(opened, expected);
}

/// The line of the log when requests are answered.
const SERVES: &str = "Listening on";

#[test]
fn database_stays_locked_during_a_repair() {
    for calls in ["rename,renameat,renameat2", "link,linkat,unlink,unlinkat", "flock"] {
        let (home, stored) = small();
        let options = format!("-e trace={calls} -e inject={calls}:delay_enter=400000");
        let mut tracer = loop {
            owe_repair(&home.path("pyzord.db"));
            let before = names(&home.directory(), "pyzord.db");
            let starts = home.log().matches(SERVES).count();
            let mut tracer = Server::start(&home, traced(&home, &options, ""));
            // The files may be gone before they are looked for: then it is tried again.
            let is_seen = eventually("a repair", || {
                let is_there = names(&home.directory(), "pyzord.db").difference(&before).count() > 0;
                (is_there || home.log().matches(SERVES).count() > starts).then_some(is_there)
            });
            if is_seen {
                break tracer;
            }
            tracer.process().child().signal(Signal::SIGTERM);
            assert_eq!(tracer.ended().code(), Some(0));
        };
        let mut other = opening(&home).spawn().unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "refused", "{calls}");
        tracer.serves(&mut home.caller());
        assert!(other.try_wait().unwrap().is_none(), "{calls}: {:?}", lines.next());
        tracer.process().child().signal(Signal::SIGTERM);
        assert_eq!(lines.next().unwrap().unwrap(), "closed", "{calls}");
        assert!(other.wait().unwrap().success());
        assert_eq!(tracer.ended().code(), Some(0));
        assert!(home.log().contains(REPAIRED), "{calls}: {}", home.log());
        assert_eq!(home.stored(), stored);
        expect_only_database(&home);
    }
}

#[test]
fn stop_during_a_start_waits_until_the_database_is_closed() {
    for (calls, when) in [
        ("rename,renameat,renameat2", "delay_exit"),
        ("fsync,fdatasync", "delay_enter"),
        ("unlink,unlinkat", "delay_enter"),
    ] {
        let (home, stored) = small();
        // The taken port keeps the start from succeeding before the signal.
        let _taken = home.take_port();
        let options = format!("-e trace={calls} -e inject={calls}:{when}=600000");
        let mut tracer = Server::start(&home, traced(&home, &options, ""));
        eventually("a marker", || marker_of(&home.path("pyzord.db")).exists().then_some(()));
        tracer.process().child().signal(Signal::SIGTERM);
        assert_eq!(tracer.ended().code(), Some(0));
        expect_only_database(&home);
        assert_eq!(home.stored(), stored);
    }
}

#[test]
fn server_that_stops_slowly_leaves_the_marker_of_its_successor() {
    for calls in ["unlink,unlinkat", "fsync,fdatasync", "ftruncate", "flock"] {
        let (home, stored) = small();
        let database = home.path("pyzord.db");
        let (mut tracer, server) = slow(&home, calls, 1000);
        server.signal(Signal::SIGTERM);
        // A start retries for two seconds and then fails.
        eventually("a successor", || (finish(home.detached()).code == Some(0)).then_some(()));
        let successor = home.daemon();
        assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
        assert_eq!(tracer.ended().code(), Some(0));
        assert!(marker_of(&database).exists(), "{calls}: the marker of the successor is gone");
        expect_inode(&database);
        assert_eq!(home.caller().count(&digest(1)), stored[&digest(1)] + 2);
        // The marker still works: a kill of the successor leads to a repair.
        successor.signal(Signal::SIGKILL);
        successor.ended();
        let text = fs::read_to_string(marker_of(&database)).unwrap();
        fs::write(marker_of(&database), text.replacen("change: 0", "change: 1", 1)).unwrap();
        home.detach().stop();
        assert!(home.log().contains(REPAIRED), "{}", home.log());
        expect_only_database(&home);
        assert_eq!(home.stored()[&digest(1)], stored[&digest(1)] + 2);
    }
}

/// Asserts that the marker names the inode of the database file.
#[track_caller]
fn expect_inode(database: &Path) {
    let number = std::os::unix::fs::MetadataExt::ino(&fs::metadata(database).unwrap());
    let marker = String::from_utf8_lossy(&fs::read(marker_of(database)).unwrap()).into_owned();
    assert!(marker.contains(&format!("\ninode: {number}\n")), "{number}: {marker}");
}

#[test]
fn file_that_is_replaced_while_it_is_opened_is_not_served() {
    for is_owed in [false, true] {
        let (home, _) = small();
        let database = home.path("pyzord.db");
        let other = home.path("other.db");
        home.clone().config("DigestDB = other.db\n");
        let daemon = home.detach();
        for number in 0..20 {
            assert_eq!(home.caller().answered("report", &[&digest(5000 + number)]).code(), 200);
        }
        daemon.stop();
        home.clone().config("");
        if is_owed {
            owe_repair(&database);
        }
        let options = "-e trace=flock -e inject=flock:delay_enter=3000000:when=1";
        let mut tracer = Server::start(&home, traced(&home, options, ""));
        eventually("a server that has opened the file and not locked it", || {
            let child = fs::read_to_string(
                tracer.process().proc("task").join(format!("{}/children", tracer.process().pid())),
            );
            child.is_ok_and(|child| !child.trim().is_empty()).then_some(())?;
            let descriptors = fs::read_dir(tracer.process().child().proc("fd")).ok()?.flatten();
            let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
            targets.any(|target| target == database).then_some(())
        });
        fs::rename(&other, &database).unwrap();
        let mut caller = home.caller();
        tracer.serves(&mut caller);
        assert_eq!(caller.count(&digest(5000)), 1, "the replaced file is served");
        assert_eq!(caller.answered("report", &[&digest(1)]).code(), 200);
        expect_inode(&database);
        tracer.process().child().signal(Signal::SIGTERM);
        assert_eq!(tracer.ended().code(), Some(0));
        let log = home.log();
        assert!(!log.contains(" ERROR ") && !log.contains("was moved or replaced"), "{log}");
        let stored = home.stored();
        assert_eq!((stored.len(), stored[&digest(1)]), (21, 1));
        expect_only_database(&home);
    }
}
