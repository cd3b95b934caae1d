//! Kills at every system call that names a file or uses a descriptor, of all threads.
//!
//! Calls are counted from the first one that opens the database or a file beside it; in a stop, from the signal on.
//! Every [`STRIDE`]th call is tried (the first, the tenth, …), with `PYZORD_CALL_STRIDE=1` every call, until a run ends
//! before it is killed.

use std::fs;
use std::io::Read;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::{
    DATABASE, Expected, MARKER, Recovery, Seed, Tally, home, is_answered, is_beside, kill_at_deadline, names,
    number, put, signal, steps, traced, traced_with,
};
use crate::harness::tracer::{Next, Stop, Traced};
use crate::harness::{Home, StopFlag, digest};
use crate::ours::repairs::REPAIRED;

const STRIDE: u64 = 9;
/// Number of records in the database.
const RECORDS: u32 = 300;

/// The point from which calls are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// The first call that opens the database or a file beside it.
    Database,
    /// The signal that stops the server.
    Stop,
}

/// The interruption at a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// The process is killed before it makes the call.
    Kill,
    /// The process gets SIGTERM.
    Stop,
}

/// Traces a process and interrupts it at the call of this number, while `act` runs. Returns whether the process made
/// that many calls, its wait status, and the result of `act`.
fn interrupted_at<T: Send>(
    home: &Home,
    mut process: Traced,
    (from, number, interruption): (From, u64, Interruption),
    act: impl FnOnce(Pid, &StopFlag) -> T + Send,
) -> (bool, WaitStatus, T) {
    let (over, pid) = (StopFlag::default(), process.pid());
    std::thread::scope(|scope| {
        let guard = over.set_on_drop();
        let acting = scope.spawn(|| act(pid, &over));
        let (mut counts, mut count) = (false, 0);
        let end = process.follow(|thread, stop| {
            match stop {
                Stop::Signal(Signal::SIGTERM) => counts |= from == From::Stop,
                Stop::Entry(call) => {
                    counts |= from == From::Database
                        && call.opens(thread).is_some_and(|path| is_beside(home, &path));
                    let is_counted = counts && call.uses_files();
                    count += u64::from(is_counted);
                    match interruption {
                        _ if !is_counted || count != number => {}
                        Interruption::Kill => return Next::Kill,
                        Interruption::Stop => kill(pid, Signal::SIGTERM).unwrap(),
                    }
                }
                _ => {}
            }
            Next::Call
        });
        drop(guard);
        (count >= number, end, acting.join().unwrap())
    })
}

/// Traces a process and kills it at the call of this number. Returns its wait status unless it was killed here, and the
/// result of `act`.
fn killed_at<T: Send>(
    home: &Home,
    process: Traced,
    from: From,
    number: u64,
    act: impl FnOnce(Pid, &StopFlag) -> T + Send,
) -> (Option<WaitStatus>, T) {
    let (was_killed, end, acted) = interrupted_at(home, process, (from, number, Interruption::Kill), act);
    ((!was_killed).then_some(end), acted)
}

/// Returns whether a process was killed here or ended with exit code 0.
fn has_ended_well(end: Option<WaitStatus>) -> bool {
    end.is_none_or(|end| matches!(end, WaitStatus::Exited(_, 0)))
}

/// Kills once at each call number, until a run ends before it is killed.
fn every_call(what: &'static str, mut run: impl FnMut(&mut Tally, u64) -> bool) {
    let mut tally = Tally::new(what);
    let (stride, mut at) = (number("PYZORD_CALL_STRIDE", STRIDE), 1);
    while run(&mut tally, at) {
        at += stride;
    }
    tally.finish();
}

/// Starts servers on the prepared files and kills each at a later call, until one answers.
fn starts(what: &'static str, expected: &Expected, prepare: impl Fn(&Home)) {
    let home = home();
    every_call(what, |tally, at| {
        prepare(&home);
        let (end, answered) = killed_at(&home, traced(&home), From::Database, at, |pid, over| {
            let answered = is_answered(&home, over);
            signal(pid, Signal::SIGKILL, over);
            answered
        });
        assert!(end.is_none() || answered, "it does not serve: {end:?}");
        tally.check(&home, end.is_none().then_some(at), expected);
        end.is_none()
    });
}

/// Starts servers on the seed and stops each at a later call, until one answers before. None may leave anything but the
/// database, and the marker if the repair is still owed.
fn stops(marker: Option<&str>) {
    let (home, seed) = (home(), seed());
    let (stride, mut at) = (number("PYZORD_CALL_STRIDE", STRIDE), 1);
    loop {
        put(&home, Some(&seed.file), marker);
        let when = (From::Database, at, Interruption::Stop);
        let (was_stopped, end, ()) = interrupted_at(&home, traced(&home), when, |pid, over| {
            if is_answered(&home, over) {
                signal(pid, Signal::SIGTERM, over);
            }
        });
        assert!(has_ended_well(Some(end)), "{end:?}");
        // A stopped repair stays owed.
        let left = names(&home);
        let is_owed = marker.is_some() && !home.log().contains(REPAIRED);
        let expected: &[&str] = if is_owed { &[DATABASE, MARKER] } else { &[DATABASE] };
        assert_eq!(left, expected, "at call {at}: {}", home.log());
        if is_owed {
            // Without the hole at the end.
            let mut content = vec![0; seed.file.len()];
            fs::File::open(home.path(DATABASE)).unwrap().read_exact(&mut content).unwrap();
            assert!(content == seed.file, "at call {at}");
        } else {
            assert_eq!(home.stored().len(), RECORDS as usize, "at call {at}");
        }
        if !was_stopped {
            break;
        }
        at += stride;
    }
    assert!(at > stride, "no start was stopped");
}

#[test]
fn start_on_a_closed_database_is_stopped_at_its_calls() {
    if Traced::is_possible() {
        stops(None);
    }
}

#[test]
fn start_that_repairs_is_stopped_at_its_calls() {
    if Traced::is_possible() {
        stops(Some("change: 1\n"));
    }
}

/// Returns a database in which every second digest was reported twice.
fn seed() -> Seed {
    Seed::reported((0..RECORDS).map(|number| (number, 1 + number % 2)))
}

#[test]
fn start_that_creates_the_database_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let nothing = Expected { texts: Default::default(), counts: Default::default() };
        starts("a start without a database", &nothing, |home| put(home, None, None));
    }
}

#[test]
fn start_on_a_closed_database_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let seed = seed();
        starts("a start on a closed database", &seed.expected(), |home| put(home, Some(&seed.file), None));
    }
}

#[test]
fn start_that_repairs_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let seed = seed();
        starts("a start that repairs", &seed.expected(), |home| {
            put(home, Some(&seed.file), Some("change: 1\n"));
        });
    }
}

/// The repair must restore records that the library does not find.
#[test]
fn start_that_repairs_half_a_split_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let (file, expected) = steps::half_a_split();
        starts("a start that repairs half a split", &expected, |home| {
            put(home, Some(&file), Some("change: 1\n"));
        });
    }
}

/// The marker records that no change was under way.
#[test]
fn start_after_a_kill_is_killed_at_its_calls() {
    if !Traced::is_possible() {
        return;
    }
    let seed = seed();
    let mut expected = seed.expected();
    expected.count(&digest(RECORDS), 1, 1);
    starts("a start after a kill", &expected, |home| {
        put(home, Some(&seed.file), None);
        let daemon = home.detach();
        assert_eq!(home.caller().answered("report", &[&digest(RECORDS)]).code(), 200);
        daemon.signal(Signal::SIGKILL);
        daemon.ended();
        assert!(fs::exists(home.path(MARKER)).unwrap());
    });
}

#[test]
fn stop_is_killed_at_its_calls() {
    if !Traced::is_possible() {
        return;
    }
    let (home, seed) = (home(), seed());
    let mut expected = seed.expected();
    // The first four have records already.
    let reported: Vec<String> = (RECORDS - 4..RECORDS + 4).map(digest).collect();
    for (index, digest) in (0..).zip(&reported) {
        let count = if index < 4 { 2 + index % 2 } else { 1 };
        expected.count(digest, count, count);
    }
    every_call("a stop", |tally, at| {
        put(&home, Some(&seed.file), None);
        let (end, acknowledged) = killed_at(&home, traced(&home), From::Stop, at, |pid, over| {
            let mut caller = home.caller();
            let mut report = |digest: &String| {
                let reply = caller.ask("report", &[digest], Duration::from_secs(60));
                reply.is_some_and(|reply| reply.code() == 200)
            };
            let acknowledged = is_answered(&home, over) && reported.iter().all(&mut report);
            signal(pid, Signal::SIGTERM, over);
            kill_at_deadline(pid, over);
            acknowledged
        });
        assert!(acknowledged, "a report was not acknowledged before the stop");
        assert!(has_ended_well(end), "{end:?}");
        tally.check(&home, end.is_none().then_some(at), &expected);
        end.is_none()
    });
}

/// Runs `--recover` on this file and kills it at a later call each time, until a run completes.
fn recoveries(what: &'static str, file: &Recovery, expected: &Expected) {
    let home = home();
    every_call(what, |tally, at| {
        put(&home, Some(&file.content), None);
        let process = traced_with(&home, &["--recover"]);
        let (end, ()) = killed_at(&home, process, From::Database, at, kill_at_deadline);
        assert!(has_ended_well(end), "{end:?}");
        tally.check_recovered(&home, end.is_none().then_some(at), expected, file);
        end.is_none()
    });
}

#[test]
fn recovery_on_demand_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let seed = seed();
        let mut content = seed.file.clone();
        content[..4096].fill(0);
        recoveries("--recover of a damaged file", &Recovery { content, is_damaged: true }, &seed.expected());
    }
}

/// A start accepts this file as it is, so it must also remove what `--recover` has left.
#[test]
fn recovery_on_demand_of_a_sound_file_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let seed = seed();
        let file = Recovery { content: seed.file.clone(), is_damaged: false };
        recoveries("--recover of a sound file", &file, &seed.expected());
    }
}
