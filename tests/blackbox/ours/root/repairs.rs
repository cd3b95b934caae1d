//! Repairs by an unprivileged user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::unistd::Uid;

use crate::harness::{Home, digest, finish};
use crate::ours::faults::kill_in_the_middle_of_reports;
use crate::ours::repairs::links::{WAYS, acknowledged, expect_repairs, move_away};
use crate::ours::repairs::owed::expect_owed;
use crate::ours::repairs::{REPAIRED, fill, marker_of, names, owe_repair, warned_start};

const NOBODY: u32 = 65534;

/// Fails with advice if the tests do not run as root.
fn require_root() {
    assert!(Uid::effective().is_root(), "changing the user needs root: sudo make test");
}

/// Gives a directory and everything in it to a user.
fn give(directory: &Path) {
    std::os::unix::fs::lchown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    if fs::symlink_metadata(directory).unwrap().is_dir() {
        fs::read_dir(directory).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

#[test]
fn database_behind_a_link_is_repaired_by_another_user() {
    require_root();
    for way in WAYS {
        println!("{way:?}");
        let home = Home::open().user_from_config().config("User = nobody\n");
        fill(&home);
        let stored = home.stored();
        let real = move_away(&home, way);
        give(&home.parent());
        expect_repairs(&home, &real, acknowledged(&stored));
    }
}

#[test]
fn kill_during_reports_of_another_user_loses_none() {
    require_root();
    let home = Home::open().user_from_config().config("User = nobody\n");
    give(&home.parent());
    kill_in_the_middle_of_reports(&home, "another user");
}

#[test]
fn repair_in_a_directory_that_is_not_writable_stays_owed() {
    require_root();
    let home = Home::open().user_from_config();
    fill(&home);
    let mut stored = home.stored();
    home.clone().config("DigestDB = data/pyzord.db\n");
    let directory = home.path("data");
    let database = directory.join("pyzord.db");
    fs::create_dir(&directory).unwrap();
    fs::rename(home.path("pyzord.db"), &database).unwrap();
    owe_repair(&database);
    // The program may be in a directory that only root can read.
    let program = home.parent().join("pyzord");
    fs::copy(env!("CARGO_BIN_EXE_pyzord"), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    give(&home.parent());
    chown(&directory, Some(0), Some(0)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "shift; exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups '{}' \"$@\"",
        program.display()
    );
    let both = ["pyzord.db", "pyzord.db.open"].map(str::to_owned).into();
    for _ in 0..2 {
        let said = home.log().len();
        let (daemon, stderr) = warned_start(&home, home.under(&script, true));
        let log = home.log()[said..].to_owned();
        assert!(log.contains(" WARNING ") && !log.contains(REPAIRED), "{log}");
        assert!(stderr.contains("repair"), "{stderr}");
        assert_eq!(home.caller().answered("report", &[&digest(5)]).code(), 200);
        *stored.get_mut(&digest(5)).unwrap() += 1;
        expect_owed(&fs::read(marker_of(&database)).unwrap());
        daemon.stop();
        expect_owed(&fs::read(marker_of(&database)).unwrap());
        assert_eq!(names(&directory, ""), both);
    }
    give(&directory);
    let said = home.log().len();
    let daemon = home.detach_with(home.under(&script, true));
    let log = home.log()[said..].to_owned();
    assert!(log.contains(REPAIRED), "{log}");
    daemon.stop();
    assert_eq!(names(&directory, ""), ["pyzord.db".to_owned()].into());
    assert_eq!(fs::metadata(&database).unwrap().uid(), NOBODY);
    fs::copy(&database, home.path("pyzord.db")).unwrap();
    assert_eq!(home.stored(), stored);
}

/// The database belongs to such a group after `chown nobody`, which keeps the group.
#[test]
fn database_of_a_group_that_the_user_is_not_in_is_repaired() {
    require_root();
    let home = Home::open().user_from_config().config("User = nobody\n");
    fill(&home);
    let stored = home.stored();
    let database = home.path("pyzord.db");
    fs::set_permissions(&database, Permissions::from_mode(0o660)).unwrap();
    owe_repair(&database);
    give(&home.parent());
    chown(&database, Some(NOBODY), Some(0)).unwrap();
    let daemon = home.detach();
    assert!(home.log().contains(REPAIRED), "{}", home.log());
    daemon.stop();
    assert_eq!(home.stored(), stored);
    // The group of the user does not get the rights of the former group.
    let metadata = fs::metadata(&database).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (NOBODY, NOBODY, 0o600));
}

/// A repair creates its files beside the real file, so the start reports that directory.
#[test]
fn directory_of_the_real_file_is_tested_as_the_user() {
    require_root();
    let home = Home::open().user_from_config().config("User = nobody\n");
    fill(&home);
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(home.path("pyzord.db"), elsewhere.join("real.db")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("real.db"), home.path("pyzord.db")).unwrap();
    give(&home.parent());
    chown(&elsewhere, Some(0), Some(0)).unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o755)).unwrap();
    finish(home.detached())
        .expect_line(&["nobody cannot create files in", "/elsewhere, the directory of the database"]);
}
