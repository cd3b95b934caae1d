//! Kills at instructions of a change, which is made in a memory-mapped file without system calls.
//!
//! Database and marker are compared after each instruction, from the one that sets the change flag in the marker until
//! some hundreds of instructions after the flag is cleared. The first run of each scenario counts the instructions that
//! change one of the files. Each later run is killed after one of these instructions: a kill at any other instruction
//! leaves the same files as a kill after the preceding one of them. Half of the kills are spread evenly, and the other
//! half are at the last instructions. The number of kills is [`KILLS`], or `PYZORD_STEP_KILLS` if set, but at most one
//! for each instruction.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::layout::{Layout, digests_of};
use super::{DATABASE, Expected, MARKER, Seed, Tally, home, is_answered, number, put, signal, traced};
use crate::harness::tracer::{Next, Stop, Traced};
use crate::harness::{Home, PATIENCE, StopFlag, digest};

/// Offset of the change flag in the marker.
const FLAG: u64 = 8;
const KILLS: u64 = 8;
/// Number of instructions after the end of a change that are compared.
const AFTER: u64 = 300;
/// Number of reports before the traced one, so that work done only for first requests is over.
const WARM_UP: i64 = 3;
/// Number of bytes compared after the used part of the file: more than any change adds.
const MORE: usize = 16 << 10;
/// Number of keys that fit into a bucket.
const CAPACITY: usize = 166;

/// The change flag in the marker; none if there is no marker with one.
struct Flag(Option<File>);

impl Flag {
    fn open(home: &Home) -> Self {
        let flag = Self(File::open(home.path(MARKER)).ok());
        if flag.is_set().is_some() { flag } else { Self(None) }
    }

    fn is_set(&self) -> Option<bool> {
        let mut byte = [0];
        self.0.as_ref()?.read_exact_at(&mut byte, FLAG).ok()?;
        match byte[0] {
            b'0' => Some(false),
            b'1' => Some(true),
            _ => None,
        }
    }
}

/// Counts the instructions of a change that modify the files.
struct Steps {
    flag: Flag,
    database: File,
    /// Whether the thread runs at full speed until the flag is written.
    waits: bool,
    is_set: bool,
    content: Vec<u8>,
    read: Vec<u8>,
    count: u64,
    after: u64,
}

impl Steps {
    /// Waits for the next change of this thread. Without a flag, the change begins now.
    fn begin(home: &Home, thread: Pid) -> Self {
        let flag = Flag::open(home);
        // Without a watchpoint the instructions before the change are stepped through, too.
        let waits = flag.0.is_some() && Traced::watch(thread, &home.path(MARKER), FLAG);
        let database = File::open(home.path(DATABASE)).unwrap();
        let mut content = vec![0; Layout::in_use(&home.path(DATABASE)) + MORE];
        let length = database.read_at(&mut content, 0).unwrap();
        content.truncate(length);
        Self { is_set: false, flag, database, waits, read: content.clone(), content, count: 0, after: 0 }
    }

    /// Compares the files after an instruction. Returns whether it was the last one to compare.
    fn compare(&mut self) -> bool {
        let flag = self.flag.is_set();
        let is_set = flag == Some(true);
        self.read.resize(self.content.len(), 0);
        self.database.read_exact_at(&mut self.read, 0).unwrap();
        if is_set != self.is_set || self.read != self.content {
            self.is_set = is_set;
            std::mem::swap(&mut self.read, &mut self.content);
            self.count += 1;
        }
        self.after = if flag == Some(false) && self.count > 0 { self.after + 1 } else { 0 };
        self.after > AFTER
    }
}

/// The result of a run, which ends with a kill.
struct Run {
    /// Number of instructions that had changed the files by then.
    changes: u64,
    /// Whether the request was acknowledged.
    acknowledged: bool,
}

/// Starts a server, reports `other`, then `reported`, and kills the server after this many instructions that changed
/// the files.
fn report(home: &Home, other: &str, reported: &str, at: Option<u64>) -> Run {
    let (over, is_next, mut process) = (StopFlag::default(), AtomicBool::new(false), traced(home));
    let pid = process.pid();
    std::thread::scope(|scope| {
        let guard = over.set_on_drop();
        let acting = scope.spawn(|| {
            let mut caller = home.caller();
            let mut is_warm = is_answered(home, &over);
            for _ in 0..WARM_UP {
                let reply = caller.ask("report", &[other], PATIENCE);
                is_warm &= reply.is_some_and(|reply| reply.code() == 200);
            }
            if !is_warm {
                signal(pid, Signal::SIGKILL, &over);
                return None;
            }
            is_next.store(true, Ordering::SeqCst);
            caller.send("report", &[reported], 2000);
            let deadline = Instant::now() + PATIENCE;
            let mut reply = None;
            while reply.is_none() && !over.is_set() && Instant::now() < deadline {
                reply = caller.receive(Duration::from_millis(20));
            }
            // Ends runs in which the end of the change was not seen, for example without a flag.
            signal(pid, Signal::SIGKILL, &over);
            let reply = reply.or_else(|| caller.receive(Duration::from_millis(1)));
            Some(reply.is_some_and(|reply| reply.code() == 200))
        });
        let mut steps = None;
        process.follow(|thread, stop| {
            if let (None, Stop::Exit(call)) = (&steps, stop)
                && is_next.load(Ordering::SeqCst)
                && call.has_received()
            {
                steps = Some(Steps::begin(home, thread));
            }
            let Some(steps) = &mut steps else { return Next::Call };
            follow(steps, stop, at)
        });
        drop(guard);
        let acknowledged = acting.join().unwrap().expect("the other digest is counted");
        Run { changes: steps.map_or(0, |steps: Steps| steps.count), acknowledged }
    })
}

/// Continues a thread for one more instruction, or kills the process after the last one.
fn follow(steps: &mut Steps, stop: Stop, at: Option<u64>) -> Next {
    if !matches!(stop, Stop::Step) {
        return if steps.waits { Next::Call } else { Next::Instruction };
    }
    steps.waits = false;
    let is_last = steps.compare();
    if is_last || at.is_some_and(|at| steps.count >= at) { Next::Kill } else { Next::Instruction }
}

/// Starts a server that deletes one expired record, and kills it after this many instructions that changed the
/// files.
fn expire(home: &Home, at: Option<u64>) -> Run {
    let (over, mut process) = (StopFlag::default(), traced(home));
    let (pid, logged) = (process.pid(), home.log().len());
    std::thread::scope(|scope| {
        let guard = over.set_on_drop();
        scope.spawn(|| {
            let deadline = Instant::now() + PATIENCE;
            let is_done = || home.log()[logged..].contains("Expiry: removed 1 of");
            while !is_done() && !over.is_set() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            signal(pid, Signal::SIGKILL, &over);
        });
        let (mut keeper, mut steps) = (None, None);
        process.follow(|thread, stop| {
            if let Stop::Entry(call) = stop
                && call.names_thread(thread).is_some_and(|name| name == "gdbm")
            {
                let begun = Steps::begin(home, thread);
                if begun.flag.0.is_none() {
                    // Without a flag all other work of this thread would be stepped through, too.
                    return Next::Kill;
                }
                (keeper, steps) = (Some(thread), Some(begun));
            }
            match &mut steps {
                Some(steps) if keeper == Some(thread) => follow(steps, stop, at),
                _ => Next::Call,
            }
        });
        drop(guard);
        Run { changes: steps.map_or(0, |steps: Steps| steps.count), acknowledged: false }
    })
}

/// Kills at instructions of a change. `run` makes the change and returns the expected records; `look` checks the file
/// after the first run, in which the change is complete.
fn every_step(
    what: &'static str,
    home: &Home,
    seed: &Seed,
    run: impl Fn(Option<u64>) -> (Run, Expected),
    look: impl FnOnce(),
) {
    let mut tally = Tally::new(what);
    put(home, Some(&seed.file), None);
    let (whole, expected) = run(None);
    look();
    tally.check(home, Some(whole.changes), &expected);
    assert!(whole.changes > 0, "{what}: there was no change");
    let kills = number("PYZORD_STEP_KILLS", KILLS).max(2) / 2;
    let spread = (0..kills).map(|index| 1 + index * whole.changes / kills);
    // The last instructions write the header.
    let last = whole.changes.saturating_sub(kills).max(1)..whole.changes;
    for change in spread.chain(last).collect::<BTreeSet<u64>>() {
        put(home, Some(&seed.file), None);
        let (run, expected) = run(Some(change));
        tally.check(home, Some(run.changes), &expected);
    }
    println!("{what}: {} instructions change the files", whole.changes);
    tally.finish();
}

/// Kills at instructions of a report of `reported`, whose count in the seed is `count`. `other`, whose count is 1, is
/// reported before it. `look` gets the state of the bucket before and after.
fn every_step_of_a_report(
    what: &'static str,
    seed: &Seed,
    other: u32,
    (reported, count): (u32, i64),
    look: impl FnOnce(Layout, Layout),
) {
    let (home, reported, other) = (home(), digest(reported), digest(other));
    put(&home, Some(&seed.file), None);
    let layout = || Layout::of(&home.path(DATABASE), &reported);
    let before = layout();
    let run = |at| {
        let run = report(&home, &other, &reported, at);
        let mut expected = seed.expected();
        expected.count(&other, 1 + WARM_UP, 1 + WARM_UP);
        expected.count(&reported, count + i64::from(run.acknowledged), count + 1);
        (run, expected)
    };
    every_step(what, &home, seed, run, || look(before, layout()));
}

#[test]
fn new_record_is_killed_at_its_instructions() {
    if Traced::is_possible() {
        let seed = Seed::reported((0..100).map(|number| (number, 1)));
        every_step_of_a_report("a new record", &seed, 1, (100, 0), |before, after| {
            assert_eq!(after, Layout { keys: before.keys + 1, ..before });
        });
    }
}

/// The new text is longer, so it is stored at another offset.
#[test]
fn replaced_record_is_killed_at_its_instructions() {
    if Traced::is_possible() {
        let seed = Seed::reported((0..100).map(|number| (number, if number == 50 { 9 } else { 1 })));
        every_step_of_a_report("a replaced record", &seed, 1, (50, 9), |before, after| {
            assert_eq!(after, before);
        });
    }
}

#[test]
fn split_of_a_bucket_is_killed_at_its_instructions() {
    if Traced::is_possible() {
        let (seed, reported) = full();
        every_step_of_a_report("a split of a bucket", &seed, 1, (reported, 0), |before, after| {
            assert!(before.is_full() && !after.is_full(), "{before:?} {after:?}");
            assert_eq!(after.bucket_bits, before.bucket_bits + 1);
            assert_eq!(after.directory_bits, before.directory_bits);
        });
    }
}

#[test]
fn doubled_directory_is_killed_at_its_instructions() {
    if !Traced::is_possible() {
        return;
    }
    // The first split repeats until these two groups are separate, which uses all bits of the directory.
    let (some, others) = (digests_of(0, 9), digests_of(1, 9));
    let mut others = others.take(CAPACITY / 2);
    let other = others.next().unwrap();
    let mut some: Vec<u32> = some.take(CAPACITY + 1).collect();
    let reported = some.pop().unwrap();
    let seed = Seed::reported([other].into_iter().chain(others).chain(some).map(|number| (number, 1)));
    every_step_of_a_report("a doubled directory", &seed, other, (reported, 0), |before, after| {
        assert!(before.is_full() && !after.is_full(), "{before:?} {after:?}");
        assert_eq!(before.bucket_bits, before.directory_bits);
        assert_eq!(after.directory_bits, before.directory_bits + 1);
    });
}

#[test]
fn deleted_record_is_killed_at_its_instructions() {
    if !Traced::is_possible() {
        return;
    }
    let (home, expired) = (home(), digest(5));
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
    let record = |number| {
        let time = if digest(number) == expired { "2001-01-01 01:01:01.010101" } else { now.as_str() };
        (digest(number), format!("1,1,{time},{time},0,None,None"))
    };
    home.database().write(&(0..10).map(record).collect::<Vec<_>>());
    let seed = Seed::of(&home);
    let run = |at| {
        let mut expected = seed.expected();
        expected.count(&expired, 0, 1);
        (expire(&home, at), expected)
    };
    every_step("a deleted record", &home, &seed, run, || ());
}

/// Returns a database whose only bucket is full, and the number of a digest that splits it.
fn full() -> (Seed, u32) {
    let capacity = u32::try_from(CAPACITY).unwrap();
    (Seed::reported((0..capacity).map(|number| (number, 1))), capacity)
}

/// Returns the file of a server that was killed after it had written both halves of a split bucket, but neither the
/// directory, which names only one of them, nor the header; and the records that must be found in it.
pub(super) fn half_a_split() -> (Vec<u8>, Expected) {
    let (before, reported) = full();
    let home = home();
    put(&home, Some(&before.file), None);
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[&digest(reported)]).code(), 200);
    daemon.stop();
    let mut file = Seed::of(&home).file;
    // Header and directory, a block each.
    file[..8192].copy_from_slice(&before.file[..8192]);
    put(&home, Some(&file), None);
    let found = home.database().list().map_or(0, |records| records.len());
    assert!(found < before.records.len(), "the library finds all of {found} records");
    let mut expected = before.expected();
    expected.count(&digest(reported), 0, 1);
    (file, expected)
}
