//! MySQL and MariaDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{COUNTS, escaped, half_timed, numbered, timeless, whitelisted};
use crate::harness::{MariaDb, from_hex, hex};
use crate::ours::migrate::{Content, PASSWORD, Planted, Record, SECOND, Side, Tally, local_date};

/// The columns of the table in the manual.
pub(crate) const COLUMNS: &str = "`digest` char(40) default NULL, `r_count` int(11) default NULL, `wl_count` \
                                  int(11) default NULL, `r_entered` datetime default NULL, `wl_entered` datetime \
                                  default NULL, `r_updated` datetime default NULL, `wl_updated` datetime default \
                                  NULL, PRIMARY KEY (`digest`)";

/// A database in a MariaDB, with a user of the same name. The raw form is the values of a row, those of the reports
/// first.
pub(crate) struct MySql {
    pub(crate) mariadb: Arc<MariaDb>,
    pub(crate) name: String,
    pub(crate) limit: i64,
}

impl MySql {
    /// Creates a database without a table.
    pub(crate) fn bare() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mariadb = MariaDb::shared();
        let name = format!("moved_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        mariadb.sql(&format!(
            "CREATE DATABASE {name}; CREATE USER {name} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {name}.* TO {name}"
        ));
        Self { mariadb, name, limit: i32::MAX.into() }
    }

    /// Creates a database with a table of these columns, whose largest count is `limit`.
    pub(crate) fn table(columns: &str, limit: i64) -> Self {
        let mut side = Self::bare();
        side.sql(&format!("CREATE TABLE digests ({columns})"));
        side.limit = limit;
        side
    }

    pub(crate) fn mariadb(&self) -> &MariaDb {
        &self.mariadb
    }

    /// The name of the database and of its user.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs statements in the database, as root.
    #[track_caller]
    pub(crate) fn sql(&self, statements: &str) -> String {
        // Zero dates come from servers that accept them.
        self.mariadb.sql(&format!("SET sql_mode = ''; USE {}; {statements}", self.name))
    }

    /// Returns a URL for the table over TCP for this user.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("mysql://{user}:{PASSWORD}@127.0.0.1:{}/{}/digests", self.mariadb.port(), self.name)
    }
}

impl Side for MySql {
    fn new() -> Self {
        Self::table(COLUMNS, i32::MAX.into())
    }

    fn absent() -> Self {
        Self::bare()
    }

    fn is_there(&self) -> bool {
        !self.sql("SHOW TABLES LIKE 'digests'").is_empty()
    }

    fn lenient() -> Self {
        // The default collation does not distinguish upper and lower case.
        let columns = COLUMNS.replace("char(40) default NULL", "varbinary(64) NOT NULL");
        let columns = columns.replace("`r_count` int(11)", "`r_count` varchar(30)");
        Self::table(&columns, i32::MAX.into())
    }

    fn engine(&self) -> &'static str {
        "mysql"
    }

    fn dsn(&self) -> String {
        self.url_of(&self.name)
    }

    fn limit(&self) -> i64 {
        self.limit
    }

    fn raw(&self, record: &Record, zone: &str) -> Vec<u8> {
        let value = |text: &str| match text {
            "NULL" => text.to_owned(),
            text => format!("'{text}'"),
        };
        self.shows(record, zone).split('\t').map(value).collect::<Vec<_>>().join(",").into_bytes()
    }

    fn awkward(&self, zone: &str) -> Vec<Planted> {
        let own = |record: Record| (String::from_utf8(self.raw(&record, zone)).unwrap(), record);
        let row = |values: &str, record: Record| (values.to_owned(), record);
        let dates = "'2011-03-13 07:06:40','2011-03-13 07:06:41'";
        let nothing = "'0000-00-00 00:00:00'";
        let mut records = vec![
            own(Record::full(5)),
            own(timeless()),
            own(half_timed()),
            row("NULL,NULL,NULL,NULL,NULL,NULL", Record::default()),
            row("0,NULL,NULL,0,NULL,NULL", Record::default()),
            row(&format!("NULL,{dates},NULL,{dates}"), Record::default()),
            // The Python server sets the times of the other tally, too.
            row(&format!("5,{dates},0,{dates}"), Record::reported(5)),
            row(&format!("0,{dates},2,{dates}"), whitelisted()),
            row(&format!("NULL,{dates},2,{dates}"), whitelisted()),
            row(&format!("4,{nothing},{nothing},2,NULL,{nothing}"), timeless()),
        ];
        let counts = COUNTS.into_iter().filter(|count| *count <= self.limit);
        records.extend(counts.map(Record::reported).map(own));
        numbered(records)
    }

    fn damaged(&self) -> Vec<Vec<u8>> {
        ["'x',NULL,NULL,0,NULL,NULL", "'',NULL,NULL,0,NULL,NULL"].map(|row| row.as_bytes().to_vec()).to_vec()
    }

    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]) {
        let row = |(key, raw): &(Vec<u8>, Vec<u8>)| {
            format!("(x'{}',{})", hex(key), String::from_utf8(raw.clone()).unwrap())
        };
        self.sql(&format!(
            "REPLACE INTO digests (digest, r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated) VALUES {}",
            records.iter().map(row).collect::<Vec<_>>().join(",")
        ));
    }

    fn all(&self) -> Content {
        if !self.is_there() {
            return Content::new();
        }
        let rows = self.sql(
            "SELECT CONCAT('k', HEX(digest)), r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated FROM \
             digests",
        );
        let record = |row: &str| {
            let (key, rest) = row.split_once('\t').unwrap();
            (escaped(&from_hex(&key[1..])), rest.to_owned())
        };
        rows.lines().map(record).collect()
    }

    fn shows(&self, record: &Record, _zone: &str) -> String {
        let date = |time: Option<i64>| {
            time.map_or("NULL".to_owned(), |micros| local_date("UTC", micros.div_euclid(SECOND) * SECOND))
        };
        let tally = |tally: &Tally| {
            // A count of 0 has no times.
            let tally = if tally.count == 0 { &Tally::default() } else { tally };
            format!("{}\t{}\t{}", tally.count.min(self.limit), date(tally.first), date(tally.last))
        };
        format!("{}\t{}", tally(&record.reports), tally(&record.whitelists))
    }
}
