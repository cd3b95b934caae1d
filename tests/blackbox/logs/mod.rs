//! The operator log and the usage log, which tools of operators parse.

mod ours;

use std::net::IpAddr;

use crate::harness::{Account, DIGEST, Home, ask_on, eventually, unix_time};

/// Splits a line into time of day in milliseconds, process id, level and message. Panics if the line has not the form
/// `2026-11-22 10:26:46,772 (12483) INFO text`.
#[track_caller]
fn split(line: &str) -> (i64, u32, &str, &str) {
    try_split(line).unwrap_or_else(|| panic!("not a log line: {line:?}"))
}

fn try_split(line: &str) -> Option<(i64, u32, &str, &str)> {
    let (stamp, rest) = line.split_at_checked(23)?;
    let form = stamp.replace(|character: char| character.is_ascii_digit(), "0");
    let (process, rest) = rest.strip_prefix(" (")?.split_once(") ")?;
    let (level, message) = rest.split_once(' ')?;
    let known = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level);
    if form != "0000-00-00 00:00:00,000" || !known {
        return None;
    }
    let number = |from: usize, to: usize| stamp[from..to].parse::<i64>().ok();
    let time = ((number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?) * 1000 + number(20, 23)?;
    Some((time, process.parse().ok()?, level, message))
}

/// Returns the levels and messages of a log.
fn messages(log: &str) -> Vec<String> {
    log.lines()
        .map(|line| {
            let (_, _, level, message) = split(line);
            format!("{level} {message}")
        })
        .collect()
}

#[test]
fn usage_line_has_user_address_operation_digests_and_code() {
    let bob = Account::new("bob");
    let home = Home::new()
        .passwd(bob.passwd())
        .access("all : bob : allow\nping pong report check info : anonymous : allow\n");
    let server = home.start();
    let other = "b".repeat(40);
    let ping = home.read("usage.log").lines().count();
    assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
    assert_eq!(server.request("check", &[&other, DIGEST]).code(), 200);
    assert_eq!(server.request("info", &[]).code(), 200);
    assert_eq!(server.request("pong", &["a'b"]).code(), 200);
    assert_eq!(server.request("pong", &["a'b\"c\\d"]).code(), 200);
    assert_eq!(server.request_as(&bob, "whitelist", &[DIGEST]).code(), 200);
    assert_eq!(server.request("whitelist", &[DIGEST]).code(), 403);
    assert_eq!(server.request_as(&Account::new("eve"), "ping", &[]).code(), 401);
    server.ask("Op: ping\nThread: 5000\n\n");
    server.ask("Op: ping\nPV: 3.0\nThread: 5000\n\n");
    let expected = [
        format!("INFO anonymous,127.0.0.1,report,['{DIGEST}', '{other}'],200"),
        format!("INFO anonymous,127.0.0.1,check,['{other}', '{DIGEST}'],200"),
        "INFO anonymous,127.0.0.1,info,None,200".into(),
        "INFO anonymous,127.0.0.1,pong,[\"a'b\"],200".into(),
        "INFO anonymous,127.0.0.1,pong,['a\\'b\"c\\\\d'],200".into(),
        format!("INFO bob,127.0.0.1,whitelist,['{DIGEST}'],200"),
        "ERROR 403: Forbidden: User is not authorized to request the operation.".into(),
        "ERROR 401: Unauthorized: Signature Error: Unknown user.".into(),
        "ERROR 400: Bad request: Protocol Version not specified in request".into(),
        "ERROR 505: Version Not Supported: ".into(),
    ];
    let lines = eventually("all usage lines", || {
        let lines = messages(&home.read("usage.log"));
        lines.last().is_some_and(|line| line.contains("505")).then_some(lines)
    });
    // The harness may have sent several pings at the start.
    assert!(lines.len() - expected.len() >= ping);
    assert!(
        lines[..lines.len() - expected.len()].iter().all(|line| line.ends_with(",ping,None,200")),
        "{lines:#?}"
    );
    assert_eq!(lines[lines.len() - expected.len()..], expected);
}

#[test]
fn log_line_has_local_time_and_process_id() {
    // An unusual offset, which needs no time zone database.
    let home = Home::open().environment("TZ", "XYZ-03:30");
    let server = home.start();
    server.request("ping", &[]);
    let now = unix_time();
    let log = eventually("a usage line", || Some(home.read("usage.log")).filter(|text| text.ends_with('\n')));
    let (time, process, ..) = split(log.lines().last().unwrap());
    let local = (now + 3 * 3600 + 30 * 60) % 86_400;
    let away = (local - time / 1000).rem_euclid(86_400);
    assert!(!(60..86_400 - 60).contains(&away), "{log} at {local}");
    let (_, starter, _, _) = split(home.log().lines().next().map(str::to_owned).as_deref().unwrap());
    assert_eq!(process, starter);
}

#[test]
fn usage_line_has_the_plain_peer_address() {
    let home = Home::open().address("::");
    let server = home.start();
    for (address, shown) in [("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")] {
        let address: IpAddr = address.parse().unwrap();
        ask_on(&server.socket_to(address), "Op: report\nPV: 2.1\nThread: 5000\n\n");
        eventually("its usage line", || {
            home.read("usage.log")
                .contains(&format!(" INFO anonymous,{shown},report,None,200\n"))
                .then_some(())
        });
    }
}
