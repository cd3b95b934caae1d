//! Damaged gdbm files: how a server handles them, and what `--recover` restores.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::harness::{Finished, Home, digest, finish};
use crate::ours::repairs::{names, owe_repair};

const RECORDS: u32 = 3000;
const BLOCK: usize = 4096;

/// Returns a home with a closed database, the content of its file, and the count of each digest.
pub(crate) fn filled() -> (Home, Vec<u8>, BTreeMap<String, i64>) {
    let home = Home::open();
    let daemon = home.detach();
    let mut caller = home.caller();
    for number in 0..RECORDS {
        for _ in 0..=number % 2 {
            assert_eq!(caller.answered("report", &[&digest(number)]).code(), 200);
        }
    }
    daemon.stop();
    let file = fs::read(home.path("pyzord.db")).unwrap();
    let stored = home.stored();
    assert_eq!(stored.len(), RECORDS as usize);
    (home, file, stored)
}

/// Replaces the database by a file, without a marker.
fn put(home: &Home, file: &[u8]) {
    for entry in fs::read_dir(home.directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("pyzord.db") {
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(home.path("pyzord.db"), file).unwrap();
}

fn recover(home: &Home) -> Finished {
    let mut command = home.command();
    command.arg("--recover");
    finish(command)
}

/// Returns the path under which the damaged file is kept.
fn kept(home: &Home) -> PathBuf {
    let names: Vec<PathBuf> = fs::read_dir(home.directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.display().to_string().contains("pyzord.db.broken-"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn recovery_restores_what_is_left_and_keeps_the_original_file() {
    let (home, file, stored) = filled();
    let zeroed = |range: std::ops::Range<usize>| {
        let mut damaged = file.clone();
        damaged[range].fill(0);
        damaged
    };
    // Each with the number of records that it may cost at most.
    let damages = [
        ("header", zeroed(0..BLOCK), 0),
        ("directory", zeroed(BLOCK..2 * BLOCK), 0),
        ("a part", zeroed(file.len() / 2..file.len() / 2 + 4 * BLOCK), 400),
        ("end", file[..file.len() * 3 / 4].to_vec(), stored.len() / 2),
        ("all but a part", [vec![0; file.len() / 2], file[file.len() / 2..].to_vec()].concat(), stored.len()),
    ];
    for (what, damaged, most) in damages {
        put(&home, &damaged);
        chown(home.path("pyzord.db"), Some(1234), Some(4321)).unwrap();
        let finished = recover(&home);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{what}: {finished:?}");
        assert_eq!(fs::read(kept(&home)).unwrap(), damaged, "{what}");
        assert!(finished.stdout.contains(&kept(&home).display().to_string()), "{what}: {finished:?}");
        let metadata = fs::metadata(home.path("pyzord.db")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (1234, 4321, 0o644), "{what}");
        let left = home.stored();
        assert!(left.len() + most >= stored.len(), "{what}: {} of {} records", left.len(), stored.len());
        assert!(finished.stdout.contains(&format!("with {} records", left.len())), "{what}: {finished:?}");
        for (digest, count) in &left {
            assert_eq!(stored.get(digest), Some(count), "{what}: {digest}");
        }
        let daemon = home.detach();
        assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200, "{what}");
        daemon.stop();
    }
}

#[test]
fn recovery_of_a_sound_file_changes_nothing() {
    let (home, file, stored) = filled();
    let path = home.path("pyzord.db");
    for round in 0..2 {
        let before = fs::metadata(&path).unwrap();
        let finished = recover(&home);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
        assert!(finished.stdout.contains("needs no repair"), "{finished:?}");
        assert!(finished.stdout.contains("pyzord.db"), "{finished:?}");
        let after = fs::metadata(&path).unwrap();
        let of = |found: &fs::Metadata| (found.ino(), found.mtime(), found.mtime_nsec(), found.len());
        assert_eq!(of(&after), of(&before));
        assert!(fs::read(&path).unwrap() == file, "round {round}: the content has changed");
        assert_eq!(names(&home.directory(), "pyzord.db"), ["pyzord.db".to_owned()].into());
    }
    assert_eq!(home.stored(), stored);
}

/// The first word of a file identifies the byte order and the word size of the machine that wrote it.
#[test]
fn error_for_a_file_of_another_machine_names_gdbm_dump_and_gdbm_load() {
    // In gdbm: GDBM_MAGIC32, GDBM_MAGIC64, GDBM_NUMSYNC_MAGIC32 and GDBM_NUMSYNC_MAGIC64.
    const SMALL: u32 = 0x1357_9acd;
    const LARGE: u32 = 0x1357_9acf;
    const SMALL_SYNCED: u32 = 0x1357_9ad0;
    const LARGE_SYNCED: u32 = 0x1357_9ad1;
    let (home, file, _) = filled();
    let path = home.path("pyzord.db");
    for magic in [
        LARGE.swap_bytes(),
        LARGE_SYNCED.swap_bytes(),
        SMALL.swap_bytes(),
        SMALL_SYNCED.swap_bytes(),
        0x1357_9ace_u32.swap_bytes(),
        SMALL,
        SMALL_SYNCED,
    ] {
        let other = [&magic.to_ne_bytes(), &file[4..]].concat();
        for is_marked in [false, true] {
            put(&home, &other);
            if is_marked {
                owe_repair(&path);
            }
            let before = names(&home.directory(), "pyzord.db");
            for finished in [finish(home.detached()), recover(&home)] {
                finished.expect_line(&["pyzord.db", "gdbm_dump", "gdbm_load"]);
                assert!(fs::read(&path).unwrap() == other, "{magic:x}: the file has changed");
                assert_eq!(names(&home.directory(), "pyzord.db"), before, "{magic:x}");
            }
        }
    }
}

#[test]
fn recovery_of_a_killed_servers_file_does_not_fill_its_hole() {
    let home = Home::open();
    let daemon = home.detach();
    for number in 0..200 {
        assert_eq!(home.caller().answered("report", &[&digest(number)]).code(), 200);
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    assert_eq!(recover(&home).code, Some(0));
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    assert!(blocks(home.path("pyzord.db")) < 64 << 20);
    assert_eq!(home.stored().len(), 200);
    // Asserts that this start has nothing to repair.
    home.detach().stop();
}

#[test]
fn recovery_is_refused_for_missing_busy_and_other_databases() {
    let home = Home::open();
    recover(&home).expect_line(&["there is no database", "pyzord.db"]);
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    recover(&home).expect_line(&["pyzord.db is in use by process"]);
    assert_eq!(home.caller().count(&digest(1)), 1);
    daemon.stop();
    home.rewrite("config", "[server]\nEngine = redis\nDigestDB = localhost,6379,,0\n");
    recover(&home).expect_line(&["--recover repairs files of the engine gdbm only, and Engine is redis"]);
    home.rewrite("config", "[server]\nDigestDB = /dev/null\n");
    recover(&home).expect_line(&["/dev/null", "not a regular file"]);
}

#[test]
fn error_for_an_unusable_file_names_the_recovery() {
    let (home, file, _) = filled();
    for damaged in [vec![0; file.len()], file[..BLOCK / 2].to_vec(), {
        let mut damaged = file.clone();
        damaged[..200].fill(0xff);
        damaged
    }] {
        put(&home, &damaged);
        finish(home.detached()).expect_line(&["pyzord.db", "pyzord --recover"]);
        assert_eq!(fs::read(home.path("pyzord.db")).unwrap(), damaged, "the file has changed");
    }
}

/// Starts a server on each damaged file, requests all records, and repairs with `--recover` the files that it refuses.
#[test]
fn flipped_and_missing_bytes_are_reported_and_harm_nothing_else() {
    let rounds = std::env::var("PYZORD_DAMAGES").map_or(25, |number| number.parse().unwrap());
    let (home, file, stored) = filled();
    let mut random = Random(20_261_123);
    let (mut refused, mut ended, mut told, mut silent, mut sound, mut lost) = (0, 0, 0, 0, 0, 0);
    for round in 0..rounds {
        let mut damaged = file.clone();
        let flips = [1, 1, 1, 4, 16, 64][random.below(6)];
        if round % 5 == 4 {
            damaged.truncate(random.below(file.len()));
        } else {
            // The header, the directory, or anywhere.
            let (from, to) = [(0, BLOCK), (BLOCK, 3 * BLOCK), (0, file.len())][random.below(3)];
            for _ in 0..flips {
                damaged[from + random.below(to - from)] ^= 1 << random.below(8);
            }
        }
        put(&home, &damaged);
        home.rewrite("pyzord.log", "");
        let finished = finish(home.detached());
        if finished.code != Some(0) {
            // Never by a signal, and with one line that names the file.
            assert_eq!(finished.code, Some(1), "{round}: {finished:?}");
            finished.expect_line(&["pyzord.db"]);
            assert_eq!(fs::read(home.path("pyzord.db")).unwrap(), damaged, "{round}: the file has changed");
            refused += 1;
            assert_eq!(recover(&home).code, Some(0), "{round}");
            let left = home.stored();
            lost += stored.len() - left.len().min(stored.len());
            let wrong = left.iter().filter(|(digest, count)| stored.get(*digest) != Some(count)).count();
            assert!(wrong <= flips, "{round}: {wrong} wrong records after {flips} flips");
            continue;
        }
        let mut caller = home.caller();
        let (mut wrong, mut refusals) = (0, 0);
        for (digest, count) in &stored {
            match caller.ask("check", &[digest], Duration::from_secs(2)) {
                Some(reply) if reply.code() == 200 => wrong += usize::from(reply.counts().0 != *count),
                Some(_) => refusals += 1,
                None => break,
            }
        }
        // New records use the lists of free blocks.
        for number in RECORDS..RECORDS + 200 {
            let _ = caller.ask("report", &[&digest(number)], Duration::from_millis(200));
            if home.processes().is_empty() {
                break;
            }
        }
        // The server stops at any time when it finds damage.
        let living = home.processes();
        ended += usize::from(living.is_empty());
        for pid in living {
            let _ = kill(pid, Signal::SIGTERM);
        }
        home.expect_no_process();
        let log = home.log();
        assert!(log.contains("Server shutdown."), "{round}: it did not end by itself: {log}");
        let has_told = log.contains("ERROR") || log.contains("CRITICAL") || log.contains("WARNING");
        assert!(refusals == 0 || has_told, "{round}: {refusals} refusals and nothing logged: {log}");
        match (wrong, has_told) {
            (0, false) => sound += 1,
            // A flipped bit in a count, a date or a key can leave a valid record.
            (wrong, false) => {
                assert!(
                    wrong <= flips,
                    "{round}: {wrong} wrong counts and nothing logged after {flips} flips"
                );
                silent += 1;
            }
            (_, true) => told += 1,
        }
    }
    println!(
        "{rounds} damaged files: {refused} refused at the start and repaired by --recover, which lost {lost} of their \
         {} records; {told} reported while serving ({ended} ended the server), {silent} changed records that still \
         look right, {sound} changed nothing that matters",
        refused * stored.len()
    );
}

#[test]
fn file_truncated_under_a_server_is_noticed_by_the_next_start() {
    let (home, file, _) = filled();
    put(&home, &file);
    let daemon = home.detach();
    let path = home.path("pyzord.db");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3 * BLOCK as u64).unwrap();
    let mut caller = home.caller();
    for number in 0..RECORDS {
        let _ = caller.ask("report", &[&digest(number)], Duration::from_millis(100));
        if home.processes().is_empty() {
            break;
        }
    }
    // The file is mapped into memory, so this may kill the process.
    if !home.processes().is_empty() {
        daemon.stop();
    }
    let logged = home.log().len();
    let finished = finish(home.detached());
    let log = home.log()[logged..].to_owned();
    if finished.code == Some(0) {
        assert!(log.contains("has been") || log.contains("recovered"), "{log}");
        home.daemon().stop();
    } else {
        finished.expect_line(&["pyzord.db"]);
        assert_eq!(recover(&home).code, Some(0));
        home.detach().stop();
    }
}
