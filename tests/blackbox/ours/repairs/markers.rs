//! The content of the marker, and its effect on the next start.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use nix::sys::signal::Signal;

use super::{
    OLD_MARKER, REPAIRED, all_names, expect_only_database, fill, log_of_a_start, marker_of, owe_repair, small,
};
use crate::harness::{Home, Server, digest};

const SIZE: usize = 4096;

/// The content of a marker.
#[derive(Clone)]
struct Content(Vec<u8>);

impl Content {
    #[track_caller]
    fn of(database: &Path) -> Self {
        Self(fs::read(marker_of(database)).unwrap())
    }

    /// Returns the value of a line.
    #[track_caller]
    fn value(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in the marker {text:?}")).to_owned()
    }

    /// Returns the content with another value in one line, in the same length.
    #[track_caller]
    fn with(&self, name: &str, value: &str) -> Self {
        let (old, new) = (format!("{name}: {}\n", self.value(name)), format!("{name}: {value}\n"));
        let at = self.0.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
        let padding = *self.0.last().unwrap();
        let mut bytes = [&self.0[..at], new.as_bytes(), &self.0[at + old.len()..]].concat();
        bytes.resize(self.0.len(), padding);
        Self(bytes)
    }
}

/// Returns a home whose server was killed while idle.
fn killed() -> Home {
    let home = Home::open();
    fill(&home);
    let daemon = home.detach();
    assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    home
}

/// Clears the change flag in the marker of [`killed`], so that no change was under way. Returns the content.
#[track_caller]
fn without_change(home: &Home) -> Content {
    let content = Content::of(&home.path("pyzord.db")).with("change", "0");
    fs::write(marker_of(&home.path("pyzord.db")), &content.0).unwrap();
    content
}

/// Returns the length of the used part of a file, from its header.
fn used(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    File::open(path).unwrap().read_exact_at(&mut bytes, 32).unwrap();
    u64::from_ne_bytes(bytes)
}

#[track_caller]
fn expect_describes(content: &Content, database: &Path) {
    let metadata = fs::metadata(database).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(content.0.len(), SIZE);
    assert!(content.0.starts_with(b"change: 0\n") || content.0.starts_with(b"change: 1\n"));
    assert_eq!(content.value("boot"), boot.trim());
    assert_eq!(content.value("device"), metadata.dev().to_string());
    assert_eq!(content.value("inode"), metadata.ino().to_string());
}

#[test]
fn marker_describes_the_file_while_the_database_is_open() {
    let home = Home::open();
    let database = home.path("pyzord.db");
    // A new file, an existing one, and one that has just been repaired.
    for round in 0..3 {
        let daemon = home.detach();
        expect_describes(&Content::of(&database), &database);
        assert_eq!(fs::metadata(marker_of(&database)).unwrap().mode() & 0o777, 0o600);
        for number in 0..50 {
            assert_eq!(home.caller().answered("report", &[&digest(number)]).code(), 200);
            expect_describes(&Content::of(&database), &database);
        }
        daemon.stop();
        expect_only_database(&home);
        if round == 1 {
            owe_repair(&database);
        }
    }
}

#[test]
fn file_is_not_repaired_if_the_marker_says_that_no_change_was_under_way() {
    let home = killed();
    without_change(&home);
    let database = home.path("pyzord.db");
    let number = fs::metadata(&database).unwrap().ino();
    assert!(fs::metadata(&database).unwrap().len() > used(&database), "a killed server leaves a tail");
    let log = log_of_a_start(&home);
    assert!(!log.contains(REPAIRED) && !log.contains("WARNING"), "{log}");
    let found = fs::metadata(&database).unwrap();
    assert_eq!((found.ino(), found.len()), (number, used(&database)));
    let stored = home.stored();
    assert_eq!((stored.len(), stored[&digest(1)]), (super::RECORDS as usize, 3));
    expect_only_database(&home);
}

#[test]
fn file_is_repaired_if_any_field_of_the_marker_differs() {
    let flipped = |number: String| (number.parse::<u64>().unwrap() ^ 1).to_string();
    // Changes to the marker of a file in which no change was under way.
    type Change<'a> = &'a dyn Fn(&Content) -> Vec<u8>;
    let changes: [(&str, Change<'_>); 12] = [
        ("change", &|content| content.with("change", "1").0),
        ("another change", &|content| content.with("change", "2").0),
        ("empty", &|_| Vec::new()),
        ("short", &|content| content.0[..SIZE - 1].to_vec()),
        ("shorter", &|content| content.0[..100].to_vec()),
        ("zeros", &|_| vec![0; SIZE]),
        ("old", &|_| OLD_MARKER.as_bytes().to_vec()),
        ("no boot", &|content| content.with("boot", "").0),
        ("another boot", &|content| {
            let boot = content.value("boot");
            let digit = if boot.starts_with('0') { "1" } else { "0" };
            content.with("boot", &format!("{digit}{}", &boot[1..])).0
        }),
        ("another device", &|content| content.with("device", &flipped(content.value("device"))).0),
        ("another inode", &|content| content.with("inode", &flipped(content.value("inode"))).0),
        ("no inode", &|content| content.with("inode", "").0),
    ];
    for (what, change) in changes {
        let home = killed();
        let content = without_change(&home);
        fs::write(marker_of(&home.path("pyzord.db")), change(&content)).unwrap();
        let log = log_of_a_start(&home);
        assert!(log.contains(REPAIRED), "{what}: {log}");
        let stored = home.stored();
        assert_eq!((stored.len(), stored[&digest(1)]), (super::RECORDS as usize, 3), "{what}");
        expect_only_database(&home);
    }
}

#[test]
fn database_of_a_copied_homedir_is_repaired() {
    let home = killed();
    without_change(&home);
    let database = home.path("pyzord.db");
    let copy = home.path("copy");
    // Without the tail, as tar and rsync -S copy the file.
    let length = used(&database);
    OpenOptions::new().write(true).open(&database).unwrap().set_len(length).unwrap();
    fs::copy(&database, &copy).unwrap();
    fs::rename(&copy, &database).unwrap();
    let log = log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    assert_eq!(home.stored().len(), super::RECORDS as usize);
    expect_only_database(&home);
}

#[test]
fn file_with_a_tail_and_no_marker_is_repaired() {
    let home = killed();
    fs::remove_file(marker_of(&home.path("pyzord.db"))).unwrap();
    let log = log_of_a_start(&home);
    assert!(log.contains(REPAIRED), "{log}");
    assert_eq!(home.stored().len(), super::RECORDS as usize);
    expect_only_database(&home);
}

#[test]
fn file_that_was_closed_is_not_repaired() {
    let (home, stored) = small();
    let before = fs::metadata(home.path("pyzord.db")).unwrap().ino();
    let log = log_of_a_start(&home);
    assert!(!log.contains(REPAIRED), "{log}");
    assert_eq!(fs::metadata(home.path("pyzord.db")).unwrap().ino(), before);
    assert_eq!(home.stored(), stored);
    expect_only_database(&home);
}

#[test]
fn repaired_file_keeps_its_owner_and_mode() {
    let (home, stored) = small();
    let database = home.path("pyzord.db");
    for (user, group, mode) in [(1234, 4321, 0o640), (0, 4321, 0o606)] {
        // Only root can change the owner.
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&database, Some(user), Some(group)).unwrap();
        }
        fs::set_permissions(&database, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let before = fs::metadata(&database).unwrap();
        owe_repair(&database);
        let log = log_of_a_start(&home);
        assert!(log.contains(REPAIRED), "{log}");
        let after = fs::metadata(&database).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
        assert_eq!(home.stored(), stored);
        assert_eq!(
            all_names(&home.directory()),
            ["config", "pyzord.access", "pyzord.db"].map(str::to_owned).into()
        );
    }
}

/// The database is replaced by a copy that was made while changes were under way: as another file, or as new content
/// of the same file.
#[test]
fn copy_that_replaced_the_database_is_repaired_whatever_the_marker_says() {
    for is_other in [true, false] {
        let home = killed();
        without_change(&home);
        let database = home.path("pyzord.db");
        if is_other {
            // The file system may give the new file the inode number of the removed one.
            let copy = fs::read(&database).unwrap();
            fs::remove_file(&database).unwrap();
            fs::write(&database, copy).unwrap();
        } else {
            // The header is older than the data after the used part.
            let file = OpenOptions::new().write(true).open(&database).unwrap();
            let record = format!("{}1,5,2026-01-01 00:00:00,2999-11-01 00:00:00,0,None,None", digest(5000));
            file.write_all_at(record.as_bytes(), used(&database) + 100).unwrap();
        }
        let log = log_of_a_start(&home);
        assert!(log.contains(REPAIRED), "{log}");
        assert_eq!(home.stored()[&digest(1)], 3);
        assert_eq!(home.stored().contains_key(&digest(5000)), !is_other);
        expect_only_database(&home);
    }
}

#[test]
fn marker_that_is_a_link_is_replaced_without_following_it() {
    for exists in [true, false] {
        let (home, stored) = small();
        let target = home.parent().join("target");
        if exists {
            fs::write(&target, "must not change").unwrap();
        }
        symlink(&target, marker_of(&home.path("pyzord.db"))).unwrap();
        let log = log_of_a_start(&home);
        assert!(log.contains(REPAIRED), "{log}");
        assert_eq!(fs::read_to_string(&target).ok(), exists.then(|| "must not change".to_owned()));
        assert_eq!(home.stored(), stored);
        expect_only_database(&home);
    }
}

/// The file of the first server is moved away while it runs, and replaced by a copy.
#[test]
fn server_whose_database_was_moved_keeps_the_marker_of_its_successor() {
    let (home, stored) = small();
    let database = home.path("pyzord.db");
    let first = home.detach();
    fs::copy(&database, home.path("copy")).unwrap();
    fs::rename(&database, home.path("moved")).unwrap();
    fs::rename(home.path("copy"), &database).unwrap();
    let other = home.clone().arguments(&["--pid-file", "other.pid"]).on_another_port();
    let mut second = Server::start(&other, other.command());
    second.serves(&mut other.caller());
    let before = fs::metadata(marker_of(&database)).unwrap().ino();
    first.stop();
    assert_eq!(fs::metadata(marker_of(&database)).unwrap().ino(), before, "its marker is gone");
    expect_describes(&Content::of(&database), &database);
    second.process().signal(Signal::SIGTERM);
    assert_eq!(second.ended().code(), Some(0));
    assert_eq!(home.stored(), stored);
}
