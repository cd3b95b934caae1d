//! GNU dbm files.

use std::path::PathBuf;

use super::{COUNTS, counted_down, escaped, half_timed, numbered, timeless, whitelisted};
use crate::harness::Home;
use crate::ours::migrate::{Content, Planted, Record, SECOND, Side, THEN, Tally, local_date, tally};

/// A gdbm file in its own homedir.
pub(crate) struct Gdbm {
    pub(crate) home: Home,
}

impl Gdbm {
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path("pyzord.db")
    }
}

impl Side for Gdbm {
    fn new() -> Self {
        Self { home: Home::open() }
    }

    fn is_there(&self) -> bool {
        self.path().exists()
    }

    fn engine(&self) -> &'static str {
        "gdbm"
    }

    fn dsn(&self) -> String {
        self.path().display().to_string()
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        self.shows(record, zone).into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let date = |micros| local_date(zone, micros);
        let (then, later) = (date(THEN), date(THEN + SECOND));
        let own = |record: Record| (self.shows(&record, zone), record);
        let old = |count, first, last| Record { reports: Tally { count, first, last }, ..Record::default() };
        let micros = Record {
            reports: tally(5, THEN + 250_000, THEN + SECOND + 999_999),
            whitelists: tally(3, THEN + 1, THEN + 3 * SECOND + 1),
        };
        let mut records = vec![
            own(Record::full(5)),
            own(micros),
            own(whitelisted()),
            own(Record::default()),
            own(timeless()),
            own(half_timed()),
            own(counted_down()),
            (
                format!("1,3,{then}.5,{later}.25,0,None,None"),
                old(3, Some(THEN + 500_000), Some(THEN + SECOND + 250_000)),
            ),
            (format!("1, 1 ,{then},{later},+0,None,None"), Record::reported(1)),
            (format!("1,+1_000,{then},{later},0,None,None"), Record::reported(1000)),
            // Written by the Python pyzor-migrate for a MySQL row with only a key.
            ("1,None,None,None,None,None,None".to_owned(), Record::default()),
            // Version 0, one of which begins like version 1.
            ("5,1300000000,1300000001".to_owned(), Record::reported(5)),
            ("1,1300000000,1300000001".to_owned(), Record::reported(1)),
            ("7,1300000000,-1".to_owned(), old(7, Some(THEN), None)),
            // Version 0 records that the Python server has partly converted to version 1 by reporting them.
            (
                format!("1,6,1300000000,{later}.500000,0,None,None"),
                old(6, Some(THEN), Some(THEN + SECOND + 500_000)),
            ),
            ("1,6,1300000000,1300000001,7,1300000002,1300000003".to_owned(), Record::full(6)),
        ];
        records.extend(COUNTS.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 8] = [
            b"garbage",
            b"",
            b"2,1,None,None,0,None,None",
            b"1,1,None,None,0,None",
            b"1,x,None,None,0,None,None",
            b"1,1,2011-13-13 07:06:40,None,0,None,None",
            b"1,1,None,None,0,None,None,0",
            b"\xff\xfe,1,2",
        ];
        texts.map(<[u8]>::to_vec).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        self.home.database().write(records);
    }

    fn all(&self) -> Content {
        if !self.is_there() {
            return Content::new();
        }
        let all = self.home.database().read();
        all.into_iter().map(|(key, value)| (escaped(&key), escaped(&value))).collect()
    }

    fn shows(&self, record: &Record, zone: &str) -> String {
        let date = |time: Option<i64>| time.map_or("None".to_owned(), |time| local_date(zone, time));
        let tally = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
        format!("1,{},{}", tally(&record.reports), tally(&record.whitelists))
    }

    fn settings(&self) -> String {
        String::new()
    }
}
