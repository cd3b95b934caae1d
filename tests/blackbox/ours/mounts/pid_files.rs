//! A pid file whose disk is full.

use std::fs;

use super::Disk;
use crate::harness::{Home, finish};

#[test]
fn a_pid_file_without_room_fails_the_start_and_is_not_left_behind_empty() {
    let home = Home::open();
    let directory = home.parent().join("run");
    fs::create_dir(&directory).unwrap();
    let disk = Disk::new(&home, directory.clone(), 64);
    // More than there is room for.
    let _ = fs::write(disk.path("ballast"), vec![0; 128 * 1024]);
    let mut command = home.detached();
    command.arg("--pid-file").arg(directory.join("pyzord.pid"));
    let finished = finish(disk.inside(&home, &command));
    finished.expect_line(&["cannot write the pid file", "pyzord.pid", "No space left on device"]);
    assert!(!disk.path("pyzord.pid").exists(), "an empty pid file is left behind");
    // Which holds the disk with a process of this home.
    drop(disk);
    home.expect_no_process();
}
