//! A recovery on a full disk.

use std::fs;

use super::Disk;
use crate::harness::finish;
use crate::ours::recover::filled;

#[test]
fn recovery_on_a_full_disk_leaves_the_file_unchanged() {
    let (home, file, _) = filled();
    let disk = Disk::new(&home, home.directory(), u32::try_from(file.len() / 1024 + 400).unwrap());
    fs::write(disk.path("pyzord.db"), &file).unwrap();
    let mut command = home.command();
    command.arg("--recover");
    let finished = finish(disk.inside(&home, &command));
    finished.expect_line(&["no room for a copy", "the file is unchanged"]);
    assert_eq!(fs::read(disk.path("pyzord.db")).unwrap(), file);
}
