//! The state of a database on a full disk.

use std::fs;

use super::Disk;
use crate::harness::{Home, Server, digest, eventually, storage_status};

#[test]
fn full_disk_makes_the_database_read_only_until_there_is_room() {
    let home = Home::open();
    let disk = Disk::new(&home, home.directory(), 16 * 1024);
    fs::copy(home.path("pyzord.access"), disk.path("pyzord.access")).unwrap();
    let mut command = home.command();
    command.arg("--log-file").arg(home.parent().join("main.log"));
    let mut server = Server::start(&home, disk.inside(&home, &command));
    let mut caller = home.caller();
    server.serves(&mut caller);
    let status = || storage_status(&disk.path("pyzord.sock"));
    assert!(status().is_available());

    disk.fill("ballast", disk.free());
    let mut next = 0;
    let full = eventually("a read-only database", || {
        let digests: Vec<String> = (next..next + 100).map(digest).collect();
        next += 100;
        caller.answered("report", &digests.iter().map(String::as_str).collect::<Vec<_>>());
        Some(status()).filter(|status| !status.is_available())
    });
    assert_eq!(full.availability(), "read_only");
    assert!(
        full.reason().starts_with("no room for the database ") && full.reason().contains("pyzord.db"),
        "{full:?}"
    );
    assert!(full.number("since_seconds").is_some() && full.number("records") > Some(1000), "{full:?}");
    // Once there is room, that is noticed without a request.
    fs::remove_file(disk.path("ballast")).unwrap();
    let again = eventually("an available database", || Some(status()).filter(|status| status.is_available()));
    assert!(again.reason().is_empty() && again.number("since_seconds").is_some(), "{again:?}");
}
