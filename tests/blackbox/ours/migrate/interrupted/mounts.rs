//! Migrations to a full disk. Needs the permission to mount a file system.

use std::fs;

use super::stopped::{MANY, expect_incomplete};
use super::stores::{Gdbm, store};
use super::{Run, Scene};
use crate::harness::Home;
use crate::ours::mounts::Disk;

#[test]
fn move_to_a_full_disk_loses_nothing_and_completes_when_there_is_space() {
    let target = Gdbm::new();
    let file = target.path();
    let home = Home::open();
    let disk = Disk::new(&home, file.parent().unwrap().to_path_buf(), 32 * 1024);
    disk.fill("ballast", 30 * 1024);
    let scene = Scene::between(store("redis"), Box::new(target), MANY, &["--delete"]).journalled();
    let run = || {
        let mut command = disk.inside(&home, &scene.command());
        scene.surround(&mut command);
        let finished = Run::start(command, scene.directory.path()).finished();
        // The content is read outside of the mount namespace: copy the files there.
        for name in ["pyzord.db", "pyzord.db.open"] {
            let there = file.with_file_name(name);
            match fs::copy(disk.path(name), &there) {
                Ok(_) => {}
                Err(_) => assert!(name != "pyzord.db" && (!there.exists() || fs::remove_file(there).is_ok())),
            }
        }
        finished
    };
    expect_incomplete(&run(), &["pyzord.db"]);
    let arrived = scene.target.read().len();
    assert!(arrived < MANY as usize, "they all had room");
    scene.expect_union();
    fs::remove_file(disk.path("ballast")).unwrap();
    let finished = run();
    assert!(finished.code == Some(0) && finished.stdout.contains("Migration complete, "), "{finished:#?}");
    scene.expect_done();
}
