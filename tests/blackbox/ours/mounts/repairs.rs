//! Repairs without room and of files that are mount points, and databases whose disk is not mounted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use super::Disk;
use crate::harness::{Finished, Home, Process, digest, finish};
use crate::ours::repairs::owed::expect_owed;
use crate::ours::repairs::{OLD_MARKER, RECORDS, REPAIRED, all_names, marker_of, names, small, warned_start};

/// Size of the disks in KiB.
const SIZE: u32 = 32 * 1024;

/// Returns a home whose closed database is on its own disk, mounted in the homedir.
fn on_a_disk() -> (Home, Disk, BTreeMap<String, i64>) {
    let (home, stored) = small();
    fs::create_dir(home.path("data")).unwrap();
    let disk = Disk::new(&home, home.path("data"), SIZE);
    fs::copy(home.path("pyzord.db"), disk.path("pyzord.db")).unwrap();
    fs::remove_file(home.path("pyzord.db")).unwrap();
    home.clone().config("DigestDB = data/pyzord.db\n");
    (home, disk, stored)
}

/// Starts a server that sees the disk. Returns it and what it logged.
#[track_caller]
fn start(home: &Home, disk: &Disk) -> (Process, String) {
    let logged = home.log().len();
    let (daemon, _) = warned_start(home, disk.inside(home, &home.detached()));
    (daemon, home.log()[logged..].to_owned())
}

/// Returns the length of the database on the disk in KiB.
fn length_on(disk: &Disk) -> usize {
    usize::try_from(fs::metadata(disk.path("pyzord.db")).unwrap().len() / 1024).unwrap()
}

/// Returns the records of the database, which must be the only file on the disk.
#[track_caller]
fn stored_on(home: &Home, disk: &Disk) -> BTreeMap<String, i64> {
    assert_eq!(names(&disk.path(""), ""), ["pyzord.db".to_owned()].into());
    let copy = home.path("pyzord.db");
    fs::copy(disk.path("pyzord.db"), &copy).unwrap();
    let stored = home.stored();
    fs::remove_file(copy).unwrap();
    stored
}

#[test]
fn repair_without_room_stays_owed_until_there_is_room() {
    let (home, disk, stored) = on_a_disk();
    let marker = disk.path("pyzord.db.open");
    fs::write(&marker, OLD_MARKER).unwrap();
    // Leaves room for half of a second file.
    disk.fill("ballast", disk.free() - length_on(&disk) / 2);
    for is_killed in [false, true, false] {
        let (daemon, log) = start(&home, &disk);
        assert!(log.contains(" WARNING ") && !log.contains(REPAIRED), "{log}");
        assert_eq!(home.caller().count(&digest(5)), stored[&digest(5)]);
        expect_owed(&fs::read(&marker).unwrap());
        if is_killed {
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
        } else {
            daemon.stop();
        }
        expect_owed(&fs::read(&marker).unwrap());
        let names = names(&disk.path(""), "pyzord.db");
        assert_eq!(names, ["pyzord.db", "pyzord.db.open"].map(str::to_owned).into());
    }
    fs::remove_file(disk.path("ballast")).unwrap();
    let (daemon, log) = start(&home, &disk);
    assert!(log.contains(REPAIRED), "{log}");
    daemon.stop();
    assert_eq!(stored_on(&home, &disk), stored);
}

/// The disk has room for reports, but not for a repair.
#[test]
fn reports_before_an_owed_repair_are_in_the_repaired_file() {
    let (home, disk, mut stored) = on_a_disk();
    let marker = disk.path("pyzord.db.open");
    fs::write(&marker, OLD_MARKER).unwrap();
    disk.fill("ballast", disk.free() - 6 * 1024);
    let (daemon, log) = start(&home, &disk);
    if log.contains(REPAIRED) {
        println!("the disk has room for a repair");
    }
    for number in RECORDS..RECORDS + 500 {
        assert_eq!(home.caller().answered("report", &[&digest(number)]).code(), 200);
        stored.insert(digest(number), 1);
    }
    daemon.stop();
    if !log.contains(REPAIRED) {
        expect_owed(&fs::read(&marker).unwrap());
    }
    fs::remove_file(disk.path("ballast")).unwrap();
    let (daemon, again) = start(&home, &disk);
    assert!([log, again].iter().filter(|log| log.contains(REPAIRED)).count() == 1);
    daemon.stop();
    assert_eq!(stored_on(&home, &disk), stored);
}

#[test]
fn leftovers_are_removed_before_the_free_room_is_measured() {
    let (home, disk, stored) = on_a_disk();
    for recovers in [false, true] {
        disk.fill("pyzord.db.repair.a1B2c3", disk.free() - length_on(&disk) / 2);
        if recovers {
            let mut file = fs::read(disk.path("pyzord.db")).unwrap();
            // The directory of the file. The repair finds all records without it.
            file[4096..8192].fill(0);
            fs::write(disk.path("pyzord.db"), file).unwrap();
            let mut command = home.command();
            command.arg("--recover");
            let finished = finish(disk.inside(&home, &command));
            assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
            for name in names(&disk.path(""), "pyzord.db.broken-") {
                fs::remove_file(disk.path(&name)).unwrap();
            }
        } else {
            fs::write(disk.path("pyzord.db.open"), OLD_MARKER).unwrap();
            let (daemon, log) = start(&home, &disk);
            assert!(log.contains(REPAIRED), "{log}");
            daemon.stop();
        }
        assert_eq!(stored_on(&home, &disk), stored);
    }
}

/// Asserts that a server that does not see the disk fails and creates nothing. Returns its result.
#[track_caller]
fn expect_unmounted(home: &Home) -> Finished {
    let before = all_names(&home.directory());
    let mut recovering = home.command();
    recovering.arg("--recover");
    finish(recovering).expect_line(&["data/pyzord.db"]);
    let finished = finish(home.detached());
    finished.expect_line(&["data/pyzord.db", "pyzord.disk"]);
    assert_eq!(names(&home.path("data"), ""), [].into());
    assert_eq!(all_names(&home.directory()), before);
    finished
}

#[test]
fn database_is_not_created_below_a_disk_that_is_not_mounted() {
    for is_killed in [false, true] {
        let (home, disk, mut stored) = on_a_disk();
        let (daemon, log) = start(&home, &disk);
        assert!(!log.contains(" WARNING "), "{log}");
        assert!(home.path("pyzord.disk").exists());
        assert_eq!(home.caller().answered("report", &[&digest(5)]).code(), 200);
        *stored.get_mut(&digest(5)).unwrap() += 1;
        if is_killed {
            daemon.signal(Signal::SIGKILL);
            daemon.ended();
            fs::remove_file(home.path("pyzord.pid")).unwrap();
            fs::remove_file(home.path("pyzord.sock")).unwrap();
        } else {
            daemon.stop();
            assert!(home.path("pyzord.disk").exists());
        }
        expect_unmounted(&home);
        // Mounted again, the database is served.
        let (daemon, _) = start(&home, &disk);
        assert_eq!(home.caller().count(&digest(5)), stored[&digest(5)]);
        daemon.stop();
        assert_eq!(stored_on(&home, &disk), stored);
        expect_unmounted(&home);
        // Without the note a new database is created.
        fs::remove_file(home.path("pyzord.disk")).unwrap();
        home.detach().stop();
        assert_eq!(names(&home.path("data"), ""), ["pyzord.db".to_owned()].into());
        assert!(!home.path("pyzord.disk").exists());
        fs::remove_file(home.path("data/pyzord.db")).unwrap();
        // The old one is still on its disk.
        start(&home, &disk).0.stop();
        assert_eq!(stored_on(&home, &disk), stored);
        expect_unmounted(&home);
    }
}

/// A memory disk is new after each boot.
#[test]
fn database_is_created_on_a_new_disk_in_the_same_place() {
    let (home, disk, _) = on_a_disk();
    start(&home, &disk).0.stop();
    drop(disk);
    let other = Disk::new(&home, home.path("data"), SIZE);
    let daemon = home.detach_with(other.inside(&home, &home.detached()));
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    daemon.stop();
    assert_eq!(stored_on(&home, &other), [(digest(1), 1)].into());
    // Another database does not change the note about this one.
    home.clone().config("DigestDB = other.db\n");
    home.detach().stop();
    home.clone().config("DigestDB = data/pyzord.db\n");
    expect_unmounted(&home);
}

#[test]
fn database_removed_from_its_mounted_disk_is_replaced() {
    let (home, disk, _) = on_a_disk();
    for _ in 0..2 {
        home.detach_with(disk.inside(&home, &home.detached())).stop();
        fs::remove_file(disk.path("pyzord.db")).unwrap();
    }
    let daemon = home.detach_with(disk.inside(&home, &home.detached()));
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    daemon.stop();
    let log = home.log();
    assert!(!log.contains(" WARNING ") && !log.contains(" ERROR "), "{log}");
    assert_eq!(stored_on(&home, &disk), [(digest(1), 1)].into());
}

/// Returns a home in which the database is a bind-mounted file.
fn mounted_file() -> (Home, Disk, BTreeMap<String, i64>) {
    let (home, stored) = small();
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let real = elsewhere.join("real.db");
    fs::rename(home.path("pyzord.db"), &real).unwrap();
    if Uid::effective().is_root() {
        chown(&real, Some(1234), Some(4321)).unwrap();
    }
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    // The file that it is mounted on.
    fs::write(home.path("pyzord.db"), "").unwrap();
    let disk = Disk::of_a_file(&home, &real, home.path("pyzord.db"));
    (home, disk, stored)
}

/// Asserts that the mounted file is still the same, has these records, and that nothing is beside it.
#[track_caller]
fn expect_in_place(home: &Home, before: &fs::Metadata, stored: &BTreeMap<String, i64>) {
    let elsewhere = home.parent().join("elsewhere");
    let real = elsewhere.join("real.db");
    let after = fs::metadata(&real).unwrap();
    let of = |found: &fs::Metadata| (found.dev(), found.ino(), found.uid(), found.gid(), found.mode());
    assert_eq!(of(&after), of(before));
    assert_eq!(names(&elsewhere, ""), ["real.db".to_owned()].into());
    assert_eq!(names(&home.directory(), "pyzord.db"), ["pyzord.db".to_owned()].into());
    let below = home.path("pyzord.db");
    assert_eq!(fs::metadata(&below).unwrap().len(), 0, "the file below the mount point");
    fs::copy(&real, &below).unwrap();
    assert_eq!(home.stored(), *stored);
    fs::write(&below, "").unwrap();
}

#[test]
fn file_that_is_a_mount_point_is_served_and_cannot_be_repaired() {
    for confine in ["True", "False"] {
        let (home, disk, mut stored) = mounted_file();
        home.clone().config(&format!("Confine = {confine}\n"));
        let real = home.parent().join("elsewhere/real.db");
        let before = fs::metadata(&real).unwrap();
        let (daemon, log) = start(&home, &disk);
        assert!(log.contains("is itself a mount point"), "{log}");
        daemon.stop();
        for _ in 0..2 {
            if !marker_of(&home.path("pyzord.db")).exists() {
                fs::write(marker_of(&home.path("pyzord.db")), OLD_MARKER).unwrap();
            }
            let (daemon, log) = start(&home, &disk);
            assert!(log.contains("could not be repaired: it is itself a mount point"), "{log}");
            assert!(!log.contains(REPAIRED), "{log}");
            assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
            *stored.get_mut(&digest(1)).unwrap() += 1;
            daemon.stop();
            expect_owed(&fs::read(marker_of(&home.path("pyzord.db"))).unwrap());
        }
        let mut command = home.command();
        command.arg("--recover");
        finish(disk.inside(&home, &command))
            .expect_line(&["it is itself a mount point", "the file is unchanged"]);
        fs::remove_file(marker_of(&home.path("pyzord.db"))).unwrap();
        let file = fs::File::options().write(true).open(&real).unwrap();
        file.set_len(before.len()).unwrap();
        expect_in_place(&home, &before, &stored);
    }
}

#[test]
fn empty_file_that_is_a_mount_point_becomes_a_database() {
    let (home, disk, _) = mounted_file();
    let real = home.parent().join("elsewhere/real.db");
    fs::write(&real, "").unwrap();
    let before = fs::metadata(&real).unwrap();
    let (daemon, _) = start(&home, &disk);
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    daemon.stop();
    expect_in_place(&home, &before, &[(digest(1), 1)].into());
}
