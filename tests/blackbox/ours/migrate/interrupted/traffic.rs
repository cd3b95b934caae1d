//! Clients that report to the source during a migration.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::RwLock;
use std::thread;
use std::time::Duration;

use super::counted::Counted;

use super::digest;
use super::scene::Scene;
use crate::harness::{Caller, StopFlag, unix_time};

/// Numbers of existing and of new digests that are reported all the time.
pub(crate) const HOT: u32 = 20;

pub(crate) const NEW: u32 = 200;

/// Random numbers.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    /// Returns a number less than this one.
    pub(crate) fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A client that reports and whitelists, and records what was acknowledged.
pub(crate) struct Reporter {
    pub(crate) caller: Caller,
    pub(crate) dice: Dice,
    pub(crate) counted: Counted,
    pub(crate) numbers: u32,
}

impl Reporter {
    /// Creates a client for a server on this port, which uses existing records with numbers below this one.
    pub(crate) fn to(port: u16, numbers: u32) -> Self {
        Self { caller: Caller::to(port), dice: Dice::new(), counted: Counted::default(), numbers }
    }

    pub(crate) fn count(&mut self) {
        let number = match self.dice.throw(4) {
            0 => self.dice.throw(u64::from(HOT)),
            1 => 8_000_000 + self.dice.throw(u64::from(NEW)),
            _ => self.dice.throw(u64::from(self.numbers)),
        };
        let number = u32::try_from(number).unwrap();
        let kind = match number % 3 {
            // A new digest is only reported or only whitelisted: in a table, the first count sets all times.
            2 if number < self.numbers => usize::try_from(self.dice.throw(2)).unwrap(),
            kind => usize::try_from(kind % 2).unwrap(),
        };
        let digest = digest(number);
        let asked = unix_time();
        let reply = self.caller.answered(["report", "whitelist"][kind], &[&digest]);
        assert_eq!(reply.code(), 200, "{}", reply.0.escape_ascii());
        self.counted.acknowledge(&digest, kind, asked, unix_time());
    }
}

/// Clients that report to the source and can be paused while a test reads it.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) over: StopFlag,
    pub(crate) quiet: RwLock<()>,
}

impl Traffic {
    /// Reports until the traffic ends.
    pub(crate) fn flow(&self, port: u16, scene: &Scene) {
        let mut reporter = Reporter::to(port, scene.next());
        while !self.over.is_set() {
            let busy = self.quiet.read().unwrap();
            reporter.count();
            scene.counted.lock().unwrap().add(&std::mem::take(&mut reporter.counted));
            drop(busy);
            // Leaves the source time for the migration.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs an action while the clients are paused.
    pub(crate) fn pause<T>(&self, act: impl FnOnce() -> T) -> T {
        let _quiet = self.quiet.write().unwrap();
        act()
    }
}

/// Sends this number of requests through a server to a source that cannot be in use during a migration.
pub(crate) fn count_alone(scene: &Scene, times: u32) {
    let server = scene.source.home().start();
    let mut reporter = Reporter::to(server.port(), scene.next());
    (0..times).for_each(|_| reporter.count());
    scene.counted.lock().unwrap().add(&reporter.counted);
    assert!(server.stop().success());
}
