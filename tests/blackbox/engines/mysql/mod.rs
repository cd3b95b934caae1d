//! MySQL and MariaDB: the table of the manual here, and in the modules below the ways to a table, tables
//! that are not quite the manual's, and several who use one table at a time.

mod addresses;
mod concurrency;
mod ours;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Record, Store, Tally};
use crate::harness::{Home, MariaDb, Server};

/// What is between the parentheses of the manual's own statement.
const COLUMNS: &str = "`digest` char(40) default NULL, `r_count` int(11) default NULL, `wl_count` int(11) default NULL, \
                       `r_entered` datetime default NULL, `wl_entered` datetime default NULL, `r_updated` datetime \
                       default NULL, `wl_updated` datetime default NULL, PRIMARY KEY (`digest`)";

/// The password of every user here.
const PASSWORD: &str = "secret";

/// A database of its own in a MariaDB, and a user of the same name whose it is.
pub(super) struct MySql {
    mariadb: Arc<MariaDb>,
    name: String,
}

impl MySql {
    /// An empty database without a table, in the MariaDB that tests share.
    fn bare() -> Self {
        Self::within(MariaDb::shared())
    }

    /// An empty database without a table.
    fn within(mariadb: Arc<MariaDb>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pyzor_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        mariadb.sql(&format!(
            "CREATE DATABASE {name}; CREATE USER {name} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {name}.* TO {name}"
        ));
        Self { mariadb, name }
    }

    /// A database with the table of the manual, in this MariaDB.
    fn with_table_in(mariadb: Arc<MariaDb>) -> Self {
        Self::within(mariadb).table(COLUMNS)
    }

    /// A database with the table of the manual, and a server that uses it with these further settings.
    fn served(settings: &str) -> (Self, Home, Server) {
        let store = Self::new();
        let home = store.home(settings);
        let server = home.start();
        (store, home, server)
    }

    /// Makes the table of these columns, with what follows the parentheses.
    fn table(self, columns: &str) -> Self {
        self.shaped(&format!("({columns})"))
    }

    /// Makes the table by what follows its name.
    fn shaped(self, shape: &str) -> Self {
        self.sql(&format!("CREATE TABLE digests {shape}"));
        self
    }

    /// Runs statements in the database, as root.
    #[track_caller]
    fn sql(&self, statements: &str) -> String {
        self.mariadb.sql(&format!("USE {}; {statements}", self.name))
    }

    /// Some columns of a digest's row, separated by tabs.
    #[track_caller]
    fn row(&self, columns: &str, digest: &str) -> String {
        self.sql(&format!("SELECT {columns} FROM digests WHERE digest = '{digest}'")).trim_end().to_owned()
    }

    /// A homedir that names a database in this way.
    fn home_at(&self, dsn: &str, settings: &str) -> Home {
        Home::open().config(&format!("Engine = mysql\nDigestDB = {dsn}\n{settings}"))
    }

    /// A URL that leads to a table or whatever else is behind the server's address.
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
        // The established server has no other way to be told than the variable of its library.
        home.environment("MYSQL_UNIX_PORT", self.mariadb.socket().display().to_string())
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        let row = |(digest, (reports, whitelistings)): &(&str, Record)| {
            // With the first report it fills in the times of the other tally, too.
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
        // A count is never left out, and what was never changed has no times, whatever is there.
        let tally = |fields: &[Option<i64>]| match fields[0].unwrap() {
            0 => Tally::default(),
            count => Tally { count, first: fields[1], last: fields[2] },
        };
        Some((tally(&fields[..3]), tally(&fields[3..])))
    }
}
