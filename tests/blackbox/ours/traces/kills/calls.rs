//! Kills at every system call that names a file or uses a descriptor, of all threads.
//!
//! The calls are counted from the first one that opens the database or anything beside it; of a stop, from the
//! signal on. Every [`STRIDE`]th call is tried, the first, the tenth and so on, and with `PYZORD_CALL_STRIDE=1`
//! each, until a run ends before it is killed.

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
/// How many records there are.
const RECORDS: u32 = 300;

/// From when on calls are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// From the first one that opens something of the database.
    Database,
    /// From the signal that asks the server to stop.
    Stop,
}

/// What happens to a process at one of its calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// It is killed, without making the call.
    Kill,
    /// It is asked to stop.
    Stop,
}

/// Follows a process and deals it this blow at the call of this number, while `act` does something with it. Returns
/// whether it came so far, how it ended, and what `act` has returned.
fn struck_at<T: Send>(
    home: &Home,
    mut process: Traced,
    (from, number, blow): (From, u64, Blow),
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
                    match blow {
                        _ if !is_counted || count != number => {}
                        Blow::Kill => return Next::Kill,
                        Blow::Stop => kill(pid, Signal::SIGTERM).unwrap(),
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

/// The same with a kill. Returns how the process ended unless it was killed here.
fn killed_at<T: Send>(
    home: &Home,
    process: Traced,
    from: From,
    number: u64,
    act: impl FnOnce(Pid, &StopFlag) -> T + Send,
) -> (Option<WaitStatus>, T) {
    let (was_killed, end, acted) = struck_at(home, process, (from, number, Blow::Kill), act);
    ((!was_killed).then_some(end), acted)
}

/// Whether a process that was not killed has ended without an error.
fn has_ended_well(end: Option<WaitStatus>) -> bool {
    end.is_none_or(|end| matches!(end, WaitStatus::Exited(_, 0)))
}

/// Kills once at each number of a call, until there is a run that ends otherwise.
fn every_call(what: &'static str, mut run: impl FnMut(&mut Tally, u64) -> bool) {
    let mut tally = Tally::new(what);
    let (stride, mut at) = (number("PYZORD_CALL_STRIDE", STRIDE), 1);
    while run(&mut tally, at) {
        at += stride;
    }
    tally.finish();
}

/// Starts servers on what is put there and kills each, until one has answered.
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

/// Starts servers on what is put there and stops each, until one has answered before. None leaves anything but the
/// database.
fn stops(marker: Option<&str>) {
    let (home, seed) = (home(), seed());
    let (stride, mut at) = (number("PYZORD_CALL_STRIDE", STRIDE), 1);
    loop {
        put(&home, Some(&seed.file), marker);
        let when = (From::Database, at, Blow::Stop);
        let (was_stopped, end, ()) = struck_at(&home, traced(&home), when, |pid, over| {
            if is_answered(&home, over) {
                signal(pid, Signal::SIGTERM, over);
            }
        });
        assert!(has_ended_well(Some(end)), "{end:?}");
        // A repair that was stopped is still to be made.
        let left = names(&home);
        let is_owed = marker.is_some() && !home.log().contains(REPAIRED);
        let expected: &[&str] = if is_owed { &[DATABASE, MARKER] } else { &[DATABASE] };
        assert_eq!(left, expected, "at call {at}: {}", home.log());
        if is_owed {
            // Not the hole behind it.
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

/// Some digests, of which every second one is reported twice.
fn seed() -> Seed {
    Seed::reported((0..RECORDS).map(|number| (number, 1 + number % 2)))
}

#[test]
fn start_that_makes_the_database_is_killed_at_its_calls() {
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

/// The repair has something to put back that the library does not find.
#[test]
fn start_that_repairs_half_a_split_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let (file, expected) = steps::half_a_split();
        starts("a start that repairs half a split", &expected, |home| {
            put(home, Some(&file), Some("change: 1\n"));
        });
    }
}

/// The marker says that no change was under way.
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
    // Of the first half of these there is one already.
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

/// Runs `--recover` on this file and kills it, until it ends by itself.
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

/// A start takes this file, so that it must also remove what `--recover` has left.
#[test]
fn recovery_on_demand_of_a_sound_file_is_killed_at_its_calls() {
    if Traced::is_possible() {
        let seed = seed();
        let file = Recovery { content: seed.file.clone(), is_damaged: false };
        recoveries("--recover of a sound file", &file, &seed.expected());
    }
}
