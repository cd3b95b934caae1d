//! Database servers that tests kill or suspend.

use std::collections::BTreeMap;

use crate::harness::{MariaDb, Redis, Service};

/// A database server that a test kills or suspends.
pub(crate) trait Store: Send {
    /// Starts a server that loses nothing it has acknowledged when it is killed.
    fn start() -> Self;

    /// Returns the settings of a pyzord that uses it.
    fn settings(&self) -> String;

    fn service(&mut self) -> &mut Service;

    /// Starts it again on its data and waits until it accepts connections.
    fn restart(&mut self);

    /// Returns the number of reports of each digest.
    fn stored(&self) -> BTreeMap<String, i64>;
}

impl Store for Redis {
    fn start() -> Self {
        Self::start()
    }

    fn settings(&self) -> String {
        format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", self.port())
    }

    fn service(&mut self) -> &mut Service {
        self.service()
    }

    fn restart(&mut self) {
        self.restart();
    }

    fn stored(&self) -> BTreeMap<String, i64> {
        let prefix = "pyzord.digest_v1.";
        let keys = self.cli(&["--scan", "--pattern", &format!("{prefix}*")]);
        let count = |key: &str| match self.cli(&["hget", key, "r_count"]).trim() {
            // The digest has only been whitelisted.
            "" => 0,
            number => number.parse().unwrap(),
        };
        keys.lines().map(|key| (key.strip_prefix(prefix).unwrap().to_owned(), count(key))).collect()
    }
}

impl Store for MariaDb {
    fn start() -> Self {
        Self::start()
    }

    fn settings(&self) -> String {
        format!("Engine = mysql\nDigestDB = 127.0.0.1:{},pyzor,secret,pyzor,digests\n", self.port())
    }

    fn service(&mut self) -> &mut Service {
        self.service()
    }

    fn restart(&mut self) {
        self.restart();
    }

    fn stored(&self) -> BTreeMap<String, i64> {
        let rows = self.sql("SELECT digest, r_count FROM pyzor.digests");
        let row = |line: &str| {
            let (digest, count) = line.split_once('\t').unwrap();
            (digest.to_owned(), count.parse().unwrap())
        };
        rows.lines().map(row).collect()
    }
}
