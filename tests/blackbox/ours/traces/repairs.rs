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

/// The calls by which a repair reads and changes files.
const CALLS: &str = "openat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,ftruncate,fallocate,fsync,fdatasync,\
                     msync,pwrite64,write,pread64,read,lseek,fchmod,fchown,flock,fstat,newfstatat,statx,statfs,fstatfs";
const ERRORS: [&str; 3] = ["ENOSPC", "EIO", "EACCES"];

/// How a program ends whose libraries cannot be loaded.
const LOADER: i32 = 127;

/// A server in the foreground under strace, with these options of that.
fn traced(home: &Home, options: &str, arguments: &str) -> Command {
    let trace = trace(home);
    home.under(&format!("exec strace -f -y -qq -o '{}' {options} \"$@\" {arguments}", trace.display()), false)
}

fn trace(home: &Home) -> PathBuf {
    home.parent().join("trace")
}

/// Puts the file in the place of the database, with nothing else of such a name but a marker with which a repair
/// is due.
fn put(home: &Home, file: &[u8]) {
    for name in names(&home.directory(), "pyzord.db") {
        fs::remove_file(home.path(&name)).unwrap();
    }
    fs::write(home.path("pyzord.db"), file).unwrap();
    owe_repair(&home.path("pyzord.db"));
}

/// Runs a server or a command until it serves or has ended, and stops it. Returns the lines that say more than
/// that and, if it has not served, its exit code.
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
    let is_telling = |line: &&str| !line.contains(" INFO ") || line.contains(REPAIRED);
    let said = said.lines().filter(is_telling).collect::<Vec<_>>().join("\n");
    (said, (!serves).then(|| status.code()))
}

/// Which calls of a repair have to do with the database: for each name the numbers among all of that thread.
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
        let count = counts.entry((thread, name)).or_default();
        *count += 1;
        // The arguments of this one are addresses.
        if arguments.contains("pyzord.db") || name == "msync" {
            calls.entry(name.to_owned()).or_default().insert(*count);
        }
    }
    calls
}

/// Lets each of the calls of a repair fail in turn, and expects that each message says why, that nothing is lost,
/// and that the next start repairs what is to be repaired.
fn fail_each_call(arguments: &str) {
    let (home, stored) = small();
    let file = fs::read(home.path("pyzord.db")).unwrap();
    put(&home, &file);
    let (said, ended) = outcome(&home, traced(&home, &format!("-e trace={CALLS}"), arguments));
    assert!(matches!(ended, None | Some(Some(0))), "{said}");
    let calls = calls_of_a_repair(&home);
    assert!(!calls.is_empty());
    let all = std::env::var_os("PYZORD_CALL_STRIDE").is_some_and(|stride| stride == "1");
    // How many calls of one name are let fail, of those that come first and of those that come last.
    let of_each = if all { 4 } else { 2 };
    let (mut runs, mut ends, mut wrong) = (0, 0, Vec::new());
    for (call, numbers) in &calls {
        let numbers: Vec<usize> = numbers.iter().copied().collect();
        let first = numbers.iter().take(of_each);
        let last = numbers.iter().skip(of_each.max(numbers.len().saturating_sub(of_each)));
        for (place, number) in first.chain(last).enumerate() {
            // All of them for each call, or one after the other.
            let errors = if all { &ERRORS[..] } else { &ERRORS[place % ERRORS.len()..][..1] };
            for error in errors {
                put(&home, &file);
                let options = format!("-e trace={call} -e inject={call}:error={error}:when={number}");
                let what = format!("{call} {number}, {error}");
                let (said, ended) = outcome(&home, traced(&home, &options, arguments));
                if ended == Some(Some(LOADER)) {
                    // It came to the same number first.
                    continue;
                }
                runs += 1;
                if said.contains("No error") || said.contains("Success") || said.contains("os error 0") {
                    wrong.push(format!("{what}: the message does not say why: {said}"));
                }
                if let Some(code) = ended {
                    ends += 1;
                    // The first write of another thread is the message itself.
                    let is_mute = call == "write" && *number == 1;
                    let is_told = code == Some(0) || is_mute || said.contains("pyzord: error: ");
                    if !is_told || !matches!(code, Some(0 | 1)) {
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
                // What cannot be removed is named.
                left.retain(|name| !call.starts_with("unlink") || !said.contains(name.as_str()));
                left.remove("pyzord.db");
                if !left.is_empty() {
                    wrong.push(format!("{what}: {left:?} are left behind: {said}"));
                }
            }
        }
    }
    println!("{runs} calls were let fail, of {} names: {ends} starts or recoveries ended", calls.len());
    assert!(wrong.is_empty(), "{} of {runs} runs are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn call_that_fails_in_a_repair_is_told_by_its_own_error() {
    fail_each_call("");
}

#[test]
fn call_that_fails_in_a_recovery_on_purpose_is_told_by_its_own_error() {
    fail_each_call("--recover");
}

/// Tries to open the database for writing, as the established server does, until that is possible. Prints a line
/// when that is refused first, and at the end another one, which says whether there still was a marker.
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

/// A server some of whose calls are slow, with a change to be written, and the strace that runs it.
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
fn nothing_else_can_open_the_database_before_the_marker_is_gone() {
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

#[test]
fn nothing_else_can_open_the_database_while_it_is_being_repaired() {
    for calls in ["rename,renameat,renameat2", "link,linkat,unlink,unlinkat", "flock"] {
        let (home, stored) = small();
        owe_repair(&home.path("pyzord.db"));
        let before = names(&home.directory(), "pyzord.db");
        let options = format!("-e trace={calls} -e inject={calls}:delay_enter=400000");
        let mut tracer = Server::start(&home, traced(&home, &options, ""));
        eventually("files of a repair", || {
            (names(&home.directory(), "pyzord.db").difference(&before).count() > 0).then_some(())
        });
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
fn stop_in_a_start_waits_until_the_database_is_closed() {
    for (calls, when) in [
        ("rename,renameat,renameat2", "delay_exit"),
        ("fsync,fdatasync", "delay_enter"),
        ("unlink,unlinkat", "delay_enter"),
    ] {
        let (home, stored) = small();
        // Otherwise it serves before it is stopped.
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
fn successor_of_a_server_that_stops_slowly_keeps_its_marker() {
    for calls in ["unlink,unlinkat", "fsync,fdatasync", "ftruncate", "flock"] {
        let (home, stored) = small();
        let database = home.path("pyzord.db");
        let (mut tracer, server) = slow(&home, calls, 1000);
        server.signal(Signal::SIGTERM);
        // It waits for two seconds, and then gives up.
        eventually("a successor", || (finish(home.detached()).code == Some(0)).then_some(()));
        let successor = home.daemon();
        assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
        assert_eq!(tracer.ended().code(), Some(0));
        assert!(marker_of(&database).exists(), "{calls}: the marker of the successor is gone");
        expect_inode(&database);
        assert_eq!(home.caller().count(&digest(1)), stored[&digest(1)] + 2);
        // Its kill is noticed, therefore.
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

/// Expects that the marker is about the file that has the database's name.
#[track_caller]
fn expect_inode(database: &Path) {
    let number = std::os::unix::fs::MetadataExt::ino(&fs::metadata(database).unwrap());
    let marker = String::from_utf8_lossy(&fs::read(marker_of(database)).unwrap()).into_owned();
    assert!(marker.contains(&format!("\ninode: {number}\n")), "{number}: {marker}");
}

#[test]
fn file_that_is_replaced_while_it_is_being_opened_is_not_the_one_that_is_served() {
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
