//! The faults that the servers are exposed to.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use crate::harness::{Account, Home, Process};
use crate::ours::mounts::Disk;
use crate::ours::mounts::soak::subject::{Random, Subject};
use crate::ours::outages::Store;

/// Fills a disk completely, or frees it again.
pub(crate) fn fill(disk: &Disk, is_full: bool) {
    let path = disk.path("ballast");
    if is_full {
        let zeros = vec![0; 1 << 20];
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        while std::io::Write::write(&mut file, &zeros).is_ok_and(|written| written > 0) {}
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Reads a pipe, with pauses.
pub(crate) fn drain(path: &Path, over: &AtomicBool, pauses: &AtomicBool) {
    let mut pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let mut buffer = vec![0; 1 << 16];
    while !over.load(Relaxed) {
        if pauses.load(Relaxed) || !pipe.read(&mut buffer).is_ok_and(|length| length > 0) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Rewrites the passwd and access files, with an account unique to this version.
pub(crate) fn write_accounts(home: &Home, bob: &Account, version: u32) -> Account {
    let latest = Account::new(&format!("version{version}"));
    home.rewrite("pyzord.passwd", format!("{}{}", bob.passwd(), latest.passwd()));
    home.rewrite("pyzord.access", "all : anonymous : allow\nall : all : allow\n");
    latest
}

/// Disturbs the server on gdbm that runs throughout.
pub(crate) fn disturb_lasting(
    subject: &Subject,
    disk: &Disk,
    pauses: &AtomicBool,
    bob: &Account,
    over: &AtomicBool,
) {
    let mut version = 0;
    let pause = |milliseconds| {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    };
    let limit = |descriptors: &str| {
        let pid = subject.process().pid().to_string();
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={descriptors}")]).status();
        assert!(status.unwrap().success());
    };
    while !over.load(Relaxed) {
        // 100 signals per second, with changing files.
        for _ in 0..50 {
            version += 1;
            write_accounts(&subject.home, bob, version);
            subject.process().signal(if version % 2 == 0 { Signal::SIGUSR1 } else { Signal::SIGHUP });
            if version % 10 == 0 {
                let _ = fs::rename(subject.home.path("pyzord.log"), subject.home.path("pyzord.log.1"));
            }
            pause(10);
        }
        fill(disk, true);
        pause(400);
        fill(disk, false);
        pause(300);
        subject.process().signal(Signal::SIGSTOP);
        pause(300);
        subject.process().signal(Signal::SIGCONT);
        pauses.store(true, Relaxed);
        pause(500);
        pauses.store(false, Relaxed);
        limit("3:");
        subject.process().signal(Signal::SIGHUP);
        subject.process().signal(Signal::SIGUSR1);
        pause(300);
        limit("1024:");
        pause(500);
    }
}

/// Kills and restarts a server, with a clock that jumps back and forth.
pub(crate) fn disturb_killed(subject: &Subject, over: &AtomicBool, start: impl Fn() -> Process) {
    let mut random = Random(4);
    while !over.load(Relaxed) {
        let until = Instant::now() + Duration::from_millis(1000 + random.below(2000));
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        set_clock(&subject.home, ["+0", "+3h", "-5h", "+40d", "-1h"][random.below(5) as usize]);
        if random.below(2) == 0 {
            let daemon = subject.process();
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
            *subject.daemon.lock().unwrap() = start();
        }
    }
}

/// Sets the offset of the clock of a server under libfaketime.
pub(crate) fn set_clock(home: &Home, offset: &str) {
    home.rewrite("clock", format!("{offset}\n"));
}

pub(crate) fn faketime() -> PathBuf {
    let directory = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let path = Path::new(&directory).join("libfaketime.so.1");
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// Kills, restarts, suspends and continues the store of a server.
pub(crate) fn disturb_store<S: Store>(store: &mut S, over: &AtomicBool) {
    let pause = |milliseconds| {
        let until = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < until && !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
    };
    loop {
        pause(3000);
        if over.load(Relaxed) {
            break;
        }
        store.service().kill();
        pause(700);
        store.restart();
        pause(3000);
        store.service().signal(Signal::SIGSTOP);
        pause(1500);
        store.service().signal(Signal::SIGCONT);
    }
}
