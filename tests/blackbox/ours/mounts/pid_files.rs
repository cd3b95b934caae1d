//! A pid file on a full disk.

use std::fs;

use super::Disk;
use crate::harness::{Home, finish};

#[test]
fn full_disk_leaves_no_empty_pid_file() {
    let home = Home::open();
    let directory = home.parent().join("run");
    fs::create_dir(&directory).unwrap();
    let disk = Disk::new(&home, directory.clone(), 64);
    // More than the disk holds.
    let _ = fs::write(disk.path("ballast"), vec![0; 128 * 1024]);
    let mut command = home.detached();
    command.arg("--pid-file").arg(directory.join("pyzord.pid"));
    let finished = finish(disk.inside(&home, &command));
    finished.expect_line(&["cannot write the pid file", "pyzord.pid", "No space left on device"]);
    assert!(!disk.path("pyzord.pid").exists(), "an empty pid file is left behind");
    // A process of this home holds the disk.
    drop(disk);
    home.expect_no_process();
}
