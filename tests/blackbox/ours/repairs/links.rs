//! Databases that are symbolic links.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::{REPAIRED, kill_under_load, marker_of, names, owe_repair, small, warned_start};
use crate::harness::{Home, Ledger, finish};

/// The kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Relative,
    Absolute,
    /// A link to a link in a third directory.
    Twice,
    /// A path through a directory that is a link.
    Directory,
}

pub(crate) const WAYS: [Way; 4] = [Way::Relative, Way::Absolute, Way::Twice, Way::Directory];

/// Moves the database to another directory and leaves a link. Returns the path of the file.
pub(crate) fn move_away(home: &Home, way: Way) -> PathBuf {
    let [elsewhere, between] = ["elsewhere", "between"].map(|name| home.parent().join(name));
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(&between).unwrap();
    let (link, real) = (home.path("pyzord.db"), elsewhere.join("real.db"));
    fs::rename(&link, &real).unwrap();
    match way {
        Way::Relative => symlink("../elsewhere/real.db", &link).unwrap(),
        Way::Absolute => symlink(&real, &link).unwrap(),
        Way::Twice => {
            symlink("../elsewhere/real.db", between.join("second")).unwrap();
            symlink(between.join("second"), &link).unwrap();
        }
        Way::Directory => {
            symlink("../elsewhere", between.join("data")).unwrap();
            symlink("../between/data/real.db", &link).unwrap();
        }
    }
    real
}

/// Asserts that the link is unchanged, and that only the file and `others` are beside it.
#[track_caller]
pub(crate) fn expect_link(home: &Home, target: &Path, real: &Path, others: &[&str]) {
    let link = home.path("pyzord.db");
    assert_eq!(fs::read_link(&link).unwrap(), target);
    assert!(fs::symlink_metadata(real).unwrap().is_file());
    assert_eq!(names(&home.directory(), "pyzord.db"), ["pyzord.db".to_owned()].into());
    let expected = ["real.db"].iter().chain(others).map(ToString::to_string).collect();
    assert_eq!(names(real.parent().unwrap(), ""), expected);
    let between = names(&home.parent().join("between"), "");
    assert!(between.is_subset(&["second", "data"].map(str::to_owned).into()), "{between:?}");
}

/// Kills servers under load. Each next one must repair the database.
#[track_caller]
pub(crate) fn expect_repairs(home: &Home, real: &Path, mut ledger: Ledger) {
    let target = fs::read_link(home.path("pyzord.db")).unwrap();
    let owner = fs::metadata(real).unwrap();
    for round in 0..4 {
        owe_repair(real);
        std::os::unix::fs::chown(marker_of(real), Some(owner.uid()), Some(owner.gid())).unwrap();
        let said = home.log().len();
        let (daemon, _) = warned_start(home, home.detached());
        let log = home.log()[said..].to_owned();
        assert!(log.contains(REPAIRED), "{round}: {log}");
        let after = fs::metadata(real).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode()), (owner.uid(), owner.gid(), owner.mode()));
        // After a kill in the middle of a bucket the original file is kept.
        if !log.contains("the original file is kept") {
            expect_link(home, &target, real, &["real.db.open"]);
        }
        if round < 3 {
            kill_under_load(home, daemon, &mut ledger, round);
        } else {
            daemon.stop();
        }
    }
    assert!(!marker_of(real).exists());
    assert_eq!(fs::read_link(home.path("pyzord.db")).unwrap(), target);
    ledger.compare(&home.stored());
}

/// Returns a ledger with the records of [`small`].
pub(crate) fn acknowledged(stored: &std::collections::BTreeMap<String, i64>) -> Ledger {
    let mut ledger = Ledger::default();
    for (digest, count) in stored {
        (0..*count).for_each(|_| ledger.acknowledge(digest));
    }
    ledger
}

#[test]
fn database_behind_a_link_is_repaired_in_its_own_directory() {
    for way in WAYS {
        for confine in ["True", "False"] {
            println!("{way:?}, Confine = {confine}");
            let (home, stored) = small();
            let real = move_away(&home, way);
            home.clone().config(&format!("Confine = {confine}\n"));
            expect_repairs(&home, &real, acknowledged(&stored));
        }
    }
}

#[test]
fn database_in_another_directory_is_repaired_there() {
    let (home, stored) = small();
    let elsewhere = home.parent().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(home.path("pyzord.db"), elsewhere.join("real.db")).unwrap();
    symlink("../elsewhere", home.path("data")).unwrap();
    home.clone().config("DigestDB = data/real.db\n");
    owe_repair(&elsewhere.join("real.db"));
    let log = super::log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    assert_eq!(names(&elsewhere, ""), ["real.db".to_owned()].into());
    fs::copy(elsewhere.join("real.db"), home.path("pyzord.db")).unwrap();
    assert_eq!(home.stored(), stored);
}

#[test]
fn recovery_through_a_link_keeps_the_link() {
    for way in WAYS {
        let (home, stored) = small();
        let real = move_away(&home, way);
        let target = fs::read_link(home.path("pyzord.db")).unwrap();
        let mut damaged = fs::read(&real).unwrap();
        // The directory of the file. The repair finds all records without it.
        damaged[4096..8192].fill(0);
        fs::write(&real, &damaged).unwrap();
        let mut command = home.command();
        command.arg("--recover");
        let finished = finish(command);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{way:?}: {finished:?}");
        let mut kept = names(real.parent().unwrap(), "real.db.broken-").into_iter();
        let kept = kept.next().unwrap_or_else(|| panic!("{way:?}: nothing is kept: {finished:?}"));
        assert_eq!(fs::read(real.with_file_name(&kept)).unwrap(), damaged);
        assert!(finished.stdout.contains(&kept), "{finished:?}");
        expect_link(&home, &target, &real, &[&kept]);
        assert_eq!(home.stored(), stored, "{way:?}");
    }
}

#[test]
fn homedir_behind_a_link_is_repaired() {
    let (home, stored) = small();
    let link = home.parent().join("link");
    symlink("home", &link).unwrap();
    owe_repair(&home.path("pyzord.db"));
    let mut command = home.detached();
    command.arg("--homedir").arg(&link);
    let daemon = home.detach_with(command);
    assert!(home.log().contains(REPAIRED), "{}", home.log());
    daemon.stop();
    super::expect_only_database(&home);
    assert_eq!(home.stored(), stored);
}
