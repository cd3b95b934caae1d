//! A pid file whose disk is full.

use std::fs;

use super::Disk;
use crate::harness::ours_only;
use crate::support::{Site, finish};

#[test]
fn a_pid_file_without_room_fails_the_start_and_is_not_left_behind_empty() {
    if !ours_only() {
        return;
    }
    let site = Site::new();
    let folder = site.folder().join("run");
    fs::create_dir(&folder).unwrap();
    let disk = Disk::new(&site, folder.clone(), 64);
    // More than there is room for.
    let _ = fs::write(disk.path("ballast"), vec![0; 128 * 1024]);
    let mut command = site.detached();
    command.arg("--pid-file").arg(folder.join("pyzord.pid"));
    let finished = finish(disk.inside(&site, &command));
    finished.expect_line(&["cannot write the pid file", "pyzord.pid", "No space left on device"]);
    assert!(!disk.path("pyzord.pid").exists(), "an empty pid file is left behind");
    // Which holds the disk with a process of this site.
    drop(disk);
    site.expect_nobody();
}
