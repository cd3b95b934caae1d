//! MySQL and MariaDB. This module has the table of Pyzor's manual; its submodules have the forms of `DigestDB`, tables
//! of other shapes, and concurrent clients.

mod addresses;
mod concurrency;
mod ours;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Record, Store, Tally};
use crate::harness::{Home, MariaDb, Server};

/// The columns in the `CREATE TABLE` statement of Pyzor's manual.
const COLUMNS: &str = "`digest` char(40) default NULL, `r_count` int(11) default NULL, `wl_count` int(11) default \
                       NULL, `r_entered` datetime default NULL, `wl_entered` datetime default NULL, `r_updated` \
                       datetime default NULL, `wl_updated` datetime default NULL, PRIMARY KEY (`digest`)";

/// The password of every database user in these tests.
const PASSWORD: &str = "secret";

/// A separate database in a MariaDB, and its user of the same name.
pub(super) struct MySql {
    mariadb: Arc<MariaDb>,
    name: String,
}

impl MySql {
    /// Creates a database without tables in the shared MariaDB.
    fn bare() -> Self {
        Self::within(MariaDb::shared())
    }

    /// Creates a database without tables in this MariaDB.
    fn within(mariadb: Arc<MariaDb>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pyzor_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        mariadb.sql(&format!(
            "CREATE DATABASE {name}; CREATE USER {name} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {name}.* TO {name}"
        ));
        Self { mariadb, name }
    }

    /// Creates a database with the manual's table in this MariaDB.
    fn with_table_in(mariadb: Arc<MariaDb>) -> Self {
        Self::within(mariadb).table(COLUMNS)
    }

    /// Creates a database with the manual's table and starts a server on it, with these additional settings.
    fn served(settings: &str) -> (Self, Home, Server) {
        let store = Self::new();
        let home = store.home(settings);
        let server = home.start();
        (store, home, server)
    }

    /// Creates the table with these columns.
    fn table(self, columns: &str) -> Self {
        self.shaped(&format!("({columns})"))
    }

    /// Creates the table with this text after its name in `CREATE TABLE`.
    fn shaped(self, shape: &str) -> Self {
        self.sql(&format!("CREATE TABLE digests {shape}"));
        self
    }

    /// Runs statements in the database as root, and returns their output.
    #[track_caller]
    fn sql(&self, statements: &str) -> String {
        self.mariadb.sql(&format!("USE {}; {statements}", self.name))
    }

    /// Returns columns of a digest's row, separated by tabs.
    #[track_caller]
    fn row(&self, columns: &str, digest: &str) -> String {
        self.sql(&format!("SELECT {columns} FROM digests WHERE digest = '{digest}'")).trim_end().to_owned()
    }

    /// A homedir with this `DigestDB` and these additional settings.
    fn home_at(&self, dsn: &str, settings: &str) -> Home {
        Home::open().config(&format!("Engine = mysql\nDigestDB = {dsn}\n{settings}"))
    }

    /// The URL of the server and user, with `rest` as its path and parameters.
    fn url(&self, rest: &str) -> String {
        format!("mysql://{}:{PASSWORD}@127.0.0.1:{}/{rest}", self.name, self.mariadb.port())
    }
}

impl Store for MySql {
    const LIMIT: i64 = 2_147_483_647;

    fn new() -> Self {
        Self::with_table_in(MariaDb::shared())
    }

    fn home(&self, settings: &str) -> Home {
        let name = &self.name;
        let home = self.home_at(&format!("localhost,{name},{PASSWORD},{name},digests"), settings);
        // The Python server learns the socket only from this variable of its client library.
        home.environment("MYSQL_UNIX_PORT", self.mariadb.socket().display().to_string())
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        let row = |(digest, (reports, whitelistings)): &(&str, Record)| {
            // Like the Python server, fill in the times of both tallies.
            let first = reports.first.or(whitelistings.first).unwrap();
            let times = [reports.first, reports.last, whitelistings.first, whitelistings.last];
            let times = times.map(|time| format!("FROM_UNIXTIME({})", time.unwrap_or(first))).join(", ");
            format!("('{digest}', {}, {}, {times})", reports.count, whitelistings.count)
        };
        let rows: Vec<_> = records.iter().map(row).collect();
        self.sql(&format!(
            "INSERT INTO digests (digest, r_count, wl_count, r_entered, r_updated, wl_entered, wl_updated) VALUES {}",
            rows.join(", ")
        ));
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let columns = "r_count, UNIX_TIMESTAMP(r_entered), UNIX_TIMESTAMP(r_updated), wl_count, \
                       UNIX_TIMESTAMP(wl_entered), UNIX_TIMESTAMP(wl_updated)";
        let row = self.row(columns, digest);
        let fields: Vec<Option<i64>> = row.split_whitespace().map(|field| field.parse().ok()).collect();
        if fields.is_empty() {
            return None;
        }
        // The count is never NULL, and times of a count of 0 mean nothing.
        let tally = |fields: &[Option<i64>]| match fields[0].unwrap() {
            0 => Tally::default(),
            count => Tally { count, first: fields[1], last: fields[2] },
        };
        Some((tally(&fields[..3]), tally(&fields[3..])))
    }
}
