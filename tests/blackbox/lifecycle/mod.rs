//! Starting, detaching, signals and stopping.

mod ours;

use std::fs;

use crate::harness::{DIGEST, Home, Server};

#[test]
fn an_empty_database_file_is_a_new_database() {
    let home = Home::open();
    home.rewrite("pyzord.db", "");
    let mut server = Server::start(&home, home.command());
    let mut caller = home.caller();
    server.serves(&mut caller);
    assert_eq!(caller.answered("report", &[DIGEST]).code(), 200);
    assert_eq!(caller.count(DIGEST), 1);
}

#[test]
fn niceness_is_added() {
    let home = Home::open();
    let own = own_niceness();
    let mut command = home.command();
    command.args(["--nice", "5"]);
    let mut server = Server::start(&home, command);
    server.serves(&mut home.caller());
    assert_eq!(server.process().stat(19), (own + 5).min(19));
}

fn own_niceness() -> i64 {
    let line = fs::read_to_string("/proc/self/stat").unwrap();
    line.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}
