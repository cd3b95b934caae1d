//! MySQL and MariaDB: the table of the manual, and other tables that there are.

use super::{Record, Store, Tally};
use crate::harness::{Home, MariaDb};

/// The manual's own statement.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS `digests` (`digest` char(40) default NULL, `r_count` int(11) default \
                      NULL, `wl_count` int(11) default NULL, `r_entered` datetime default NULL, `wl_entered` datetime \
                      default NULL, `r_updated` datetime default NULL, `wl_updated` datetime default NULL, PRIMARY KEY \
                      (`digest`))";

/// A MariaDB with a table of the manual.
pub(super) struct MySql(MariaDb);

impl MySql {
    /// The server.
    pub(super) fn mariadb(&self) -> &MariaDb {
        &self.0
    }
}

impl Store for MySql {
    const LIMIT: i64 = 2_147_483_647;
    /// An increment beyond the limit is an error to MariaDB. And the first change of one tally is a date
    /// of the other one as well.
    const ONLY_OURS: &[&str] = &[
        "counts_stay_at_their_limit",
        "changes_are_counted_and_dated",
        "whitelistings_alone_are_counted",
        "records_of_the_established_server_are_served_and_changed",
    ];

    fn new() -> Self {
        let mariadb = MariaDb::with("--default-time-zone=+00:00");
        mariadb.sql(&format!("USE pyzor; {SCHEMA}"));
        Self(mariadb)
    }

    fn home(&self, settings: &str) -> Home {
        let settings = format!("Engine = mysql\nDigestDB = localhost,pyzor,secret,pyzor,digests\n{settings}");
        // The established server has no other way to be told than the variable of its library.
        let socket = self.0.socket().display().to_string();
        Home::open().config(&settings).environment("MYSQL_UNIX_PORT", socket)
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        for (digest, (reports, whitelistings)) in records {
            // With the first report it fills in the times of the other tally, too.
            let first = reports.first.or(whitelistings.first).unwrap();
            let times = |tally: &Tally| [tally.first.unwrap_or(first), tally.last.unwrap_or(first)];
            let ([r_entered, r_updated], [wl_entered, wl_updated]) = (times(reports), times(whitelistings));
            self.0.sql(&format!(
                "INSERT INTO pyzor.digests (digest, r_count, wl_count, r_entered, r_updated, wl_entered, wl_updated) \
                 VALUES ('{digest}', {}, {}, FROM_UNIXTIME({r_entered}), FROM_UNIXTIME({r_updated}), \
                 FROM_UNIXTIME({wl_entered}), FROM_UNIXTIME({wl_updated}))",
                reports.count, whitelistings.count,
            ));
        }
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let row = self.0.sql(&format!(
            "SELECT r_count, UNIX_TIMESTAMP(r_entered), UNIX_TIMESTAMP(r_updated), wl_count, \
             UNIX_TIMESTAMP(wl_entered), UNIX_TIMESTAMP(wl_updated) FROM pyzor.digests WHERE digest = '{digest}'"
        ));
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
