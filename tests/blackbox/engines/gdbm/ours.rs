//! GNU dbm files that only our server reads as expected.

use jiff::tz::TimeZone;

use super::{hints, home, parse};
use crate::engines::{LATER, THEN, Tally, digests, done};
use crate::harness::{DIGEST, Database, Home, eventually, interop};

#[test]
fn records_of_version_0_are_dated_and_converted() {
    let home = home();
    let database = home.database();
    let digests = digests(4);
    database.write(&[
        (&digests[0], "5,1300000000,1300000001"),
        // Partly converted by the established server, or version 1 with numbers in the place of all dates.
        (&digests[1], "1,6,1300000000,2011-03-13 07:06:41.500000,0,None,None"),
        (&digests[2], "1,6,1300000000,1300000001,2,1300000002,1300000003"),
        (&digests[3], "7,1300000000,1300000001"),
    ]);
    let server = home.start();
    let times = |digest: &str| done(&server, "info", digest).times();
    assert_eq!(times(&digests[0]), [THEN, LATER, 0, 0]);
    assert_eq!(times(&digests[1]), [THEN, LATER, 0, 0]);
    assert_eq!(times(&digests[2]), [THEN, LATER, THEN + 2, THEN + 3]);
    let all: Vec<&str> = digests[..3].iter().map(String::as_str).collect();
    assert_eq!(server.request("whitelist", &all).code(), 200);
    assert_eq!(done(&server, "check", &digests[0]).counts(), (5, 1));
    server.stop();
    for (digest, count) in digests.iter().zip([5, 6, 6]) {
        let (reports, _) = parse(database.record(digest).as_bytes(), &TimeZone::UTC);
        assert_eq!(reports, Tally::new(count, THEN, LATER));
    }
    // A record that is not changed is not converted.
    assert_eq!(database.record(&digests[3]), "7,1300000000,1300000001");

    // The established server can read the converted record, unlike the old one.
    let established = home.program(interop("pyzord")).start();
    let info = done(&established, "info", &digests[1]);
    assert_eq!(info.times()[..2], [THEN, LATER]);
    assert_eq!(info.counts(), (6, 1));
}

#[test]
fn counts_beyond_the_limit_are_shown_as_the_limit() {
    let home = home();
    let text = "2011-03-13 07:06:40,2011-03-13 07:06:40";
    home.database().write(&[(DIGEST, format!("1,1000000000000000000000000000000,{text},0,None,None"))]);
    let server = home.start();
    done(&server, "report", DIGEST);
    assert_eq!(done(&server, "check", DIGEST).counts(), (i64::MAX, 0));
}

#[test]
fn database_with_a_whitelisted_digest_can_be_opened_again() {
    let home = Home::open();
    let server = home.start();
    done(&server, "whitelist", DIGEST);
    server.stop();
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (0, 1));
}

/// Values that are not records.
const DAMAGED: [&[u8]; 10] = [
    b"garbage",
    b"",
    b"2,1,None,None,0,None,None",
    b"1,1,None,None,0,None",
    b"1,1,None,None,0,None,None,0",
    b"1,x,None,None,0,None,None",
    b"1,1,2011-13-13 07:06:40,None,0,None,None",
    b"1,1,yesterday,None,0,None,None",
    b"\xff\xfe,1,2",
    b"1,,,,,,",
];

#[test]
fn damaged_record_fails_and_others_are_served() {
    // With expiry, which must ignore them.
    let home = Home::open();
    let database = home.database();
    let digests = digests(DAMAGED.len().try_into().unwrap());
    let records: Vec<_> = digests.iter().zip(DAMAGED).collect();
    database.write(&records);
    let server = home.start();
    let reply = "Code: 500\nDiag: Internal Server Error: Damaged record.\nPV: 2.1\nThread: 3000\n\n";
    for digest in &digests {
        for operation in ["check", "info", "report", "whitelist"] {
            let got = server.request(operation, &[digest]);
            assert_eq!(String::from_utf8_lossy(&got.0), reply, "{operation} of {digest}");
        }
    }
    // The other digests of the request are counted.
    let other = "b".repeat(40);
    let got = server.request("report", &[DIGEST, &digests[0], &other]);
    assert_eq!(String::from_utf8_lossy(&got.0), reply);
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    assert_eq!(done(&server, "check", &other).counts(), (1, 0));
    eventually("the key in the log", || home.log().contains(&digests[0]).then_some(()));
    server.stop();
    let after = database.read();
    for (digest, value) in records {
        assert_eq!(after[digest.as_bytes()], value, "{digest}");
    }
}

#[test]
fn keys_that_are_not_lower_case_digests_are_kept_with_one_warning() {
    let home = Home::open();
    let database: Database = home.database();
    let text = "1,5,2011-03-13 07:06:40,2011-03-13 07:06:41,0,None,None";
    let upper = DIGEST.to_uppercase();
    let odd: [&[u8]; 6] = [b"", b"short", upper.as_bytes(), b"\xff\xfe", &[b'a'; 41], b"pyzord.digest_v1.x"];
    let mut records: Vec<(&[u8], &str)> = odd.iter().map(|key| (*key, text)).collect();
    records.push((b"not a record either", "nonsense"));
    database.write(&records);
    let server = home.start();
    eventually("a warning", || (hints(&home) > 0).then_some(()));
    // The record under the upper-case key is not used.
    assert_eq!(done(&server, "check", &upper).counts(), (0, 0));
    done(&server, "report", &upper);
    server.stop();
    assert_eq!(hints(&home), 1, "{}", home.log());
    let after = database.read();
    for (key, value) in records {
        assert_eq!(after[key], value.as_bytes(), "{}", key.escape_ascii());
    }
    assert!(after.contains_key(DIGEST.as_bytes()));
}
