//! Databases that are links to a file elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::{REPAIRED, kill_under_load, marker_of, names, owe_repair, small, warned_start};
use crate::harness::{Home, Ledger, finish};

/// How the homedir's link leads to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Relative,
    Absolute,
    /// By another link, in a third directory.
    Twice,
    /// The file is in a directory that is a link.
    Directory,
}

pub(crate) const WAYS: [Way; 4] = [Way::Relative, Way::Absolute, Way::Twice, Way::Directory];

/// Moves the database of a home elsewhere and leaves a link. Returns the real file.
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

/// Expects that the link is still one, and that only the real file is left of the database.
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

/// Kills servers under load and has each repaired by the next.
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
        // A kill may have cut a bucket off; the file is then kept.
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

/// The records of [`small`], as reports that were acknowledged.
pub(crate) fn acknowledged(stored: &std::collections::BTreeMap<String, i64>) -> Ledger {
    let mut ledger = Ledger::default();
    for (digest, count) in stored {
        (0..*count).for_each(|_| ledger.acknowledge(digest));
    }
    ledger
}

#[test]
fn database_behind_a_link_is_repaired_where_it_is() {
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
fn digest_db_elsewhere_is_repaired_there() {
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
fn recovering_through_a_link_keeps_the_link() {
    for way in WAYS {
        let (home, stored) = small();
        let real = move_away(&home, way);
        let target = fs::read_link(home.path("pyzord.db")).unwrap();
        let mut damaged = fs::read(&real).unwrap();
        // The directory, without which everything is found all the same.
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
