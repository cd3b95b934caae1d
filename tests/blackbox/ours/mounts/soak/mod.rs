//! Soak test: servers on all engines under full load, with repeated faults of every kind.
//!
//! It runs for a few seconds with the other tests. `make soak` runs for half an hour and prints its observations. No
//! report may be lost or counted twice, and no server that runs throughout may grow.

mod disturbances;
mod subject;

use std::fs::{self, OpenOptions};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Disk;
use crate::harness::{Account, Home, MariaDb, Redis, digest, eventually, unix_time};
use crate::ours::mounts::soak::disturbances::{
    disturb_killed, disturb_lasting, disturb_store, drain, faketime, set_clock, write_accounts,
};
use crate::ours::mounts::soak::subject::{LOOKS, Subject};
use crate::ours::outages::Store;

fn duration() -> Duration {
    Duration::from_secs(std::env::var("PYZORD_SOAK_SECONDS").map_or(8, |seconds| seconds.parse().unwrap()))
}

#[test]
fn servers_under_load_and_faults_count_right_and_do_not_grow() {
    let bob = Account::new("bob");
    let (mut redis, mut mariadb) = (<Redis as Store>::start(), <MariaDb as Store>::start());

    let home = Home::open();
    let directory = home.directory();
    fs::create_dir(directory.join("disk")).unwrap();
    let pipe = directory.join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    home.rewrite(
        "config",
        "[server]\nLogFile = pyzord.log\nUsageLogFile = pipe\nDigestDB = disk/pyzord.db\n",
    );
    let with_accounts = |home: Home| {
        write_accounts(&home, &bob, 0);
        home
    };
    let lasting = with_accounts(home);
    // The server needs a reader to open the pipe.
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let disk = Disk::new(&lasting, directory.join("disk"), 48 * 1024);
    let daemon = lasting.detach_with(disk.inside(&lasting, &lasting.detached()));
    let lasting = Subject::new("gdbm", lasting, daemon, true);

    // Without the usage log, which would fill the disk in half an hour.
    let quiet = |settings: &str| {
        let home = Home::open();
        home.rewrite("config", format!("[server]\nLogFile = pyzord.log\n{settings}"));
        with_accounts(home)
    };
    let killed = quiet("");
    set_clock(&killed, "+0");
    let start_killed = |home: &Home| {
        let mut command = home.detached();
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", home.path("clock"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        home.detach_with_debug(command)
    };
    let daemon = start_killed(&killed);
    let killed = Subject::new("gdbm, killed", killed, daemon, false);
    let on_store = |name, settings: &str| {
        let home = quiet(settings);
        let daemon = home.detach();
        Subject::new(name, home, daemon, true)
    };
    let on_redis = on_store("redis", &redis.settings());
    let on_mysql = on_store("mysql", &mariadb.settings());
    let subjects = [&lasting, &killed, &on_redis, &on_mysql];

    let (over, pauses) = (AtomicBool::new(false), AtomicBool::new(false));
    /// Stops all threads, also if the test fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let _ends = Ends(&over);
        for (number, subject) in subjects.into_iter().enumerate() {
            let (bob, over) = (&bob, &over);
            scope.spawn(move || subject.load(bob, over, number as u64 + 1));
            scope.spawn(move || subject.send_malformed_requests(over, number as u64 + 101));
        }
        scope.spawn(|| drain(&pipe, &over, &pauses));
        scope.spawn(|| {
            let _ends = Ends(&over);
            disturb_lasting(&lasting, &disk, &pauses, &bob, &over);
        });
        scope.spawn(|| {
            let _ends = Ends(&over);
            disturb_killed(&killed, &over, || start_killed(&killed.home));
        });
        scope.spawn(|| disturb_store(&mut redis, &over));
        scope.spawn(|| disturb_store(&mut mariadb, &over));
        for look in 1..=LOOKS {
            let next = start + duration() * look / LOOKS;
            while Instant::now() < next && !over.load(Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            subjects.iter().for_each(|subject| subject.look());
            if duration() > Duration::from_secs(300) {
                let summary = |subject: &&Subject| {
                    let look = *subject.looks.lock().unwrap().last().unwrap();
                    format!("{} {} KiB {}/{}", subject.name, look.anonymous, look.descriptors, look.threads)
                };
                println!(
                    "{:>5} s: {}",
                    start.elapsed().as_secs(),
                    subjects.iter().map(summary).collect::<Vec<_>>().join("; ")
                );
            }
        }
        assert!(!over.load(Relaxed), "a disturbance failed");
    });

    // The last version of the accounts is in force.
    let latest = write_accounts(&lasting.home, &bob, u32::MAX);
    lasting.process().signal(Signal::SIGUSR1);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", lasting.home.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    eventually("the last files", || {
        let _ = socket.send(&latest.sign("Op: ping\nThread: 3000\nPV: 2.1\n", unix_time()));
        let mut reply = [0; 1024];
        let length = socket.recv(&mut reply).ok()?;
        reply[..length].starts_with(b"Code: 200").then_some(())
    });
    for subject in subjects {
        // All faults are over.
        let mut caller = subject.home.caller();
        eventually("an answer", || {
            let reply = caller.ask("check", &[&digest(1)], Duration::from_secs(1))?;
            (reply.code() == 200).then_some(())
        });
        subject.process().stop();
    }
    println!("{} s under load:", start.elapsed().as_secs());
    let of_file = |path: PathBuf| {
        let home = Home::new();
        fs::copy(path, home.path("pyzord.db")).unwrap();
        home.stored()
    };
    let results = [
        lasting.compare_counts(&of_file(disk.path("pyzord.db"))),
        killed.compare_counts(&of_file(killed.home.path("pyzord.db"))),
        on_redis.compare_counts(&redis.stored()),
        on_mysql.compare_counts(&mariadb.stored()),
    ];
    for (subject, result) in subjects.into_iter().zip(results) {
        subject.judge(&result);
    }
}
