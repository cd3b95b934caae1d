//! The trait of databases that can be the source or the destination of a migration.

use std::collections::{BTreeMap, BTreeSet};

use crate::ours::migrate::record::Record;

/// The content of a database as another program shows it: escaped values by escaped keys, keys as stored.
pub(crate) type Content = BTreeMap<String, String>;

/// A record as another program may have left it.
pub(crate) struct Planted {
    /// A digest or another key.
    pub(crate) key: Vec<u8>,
    /// The stored form, in the database's own syntax.
    pub(crate) raw: Vec<u8>,
    /// The record it stands for; none if it is corrupt.
    pub(crate) says: Option<Record>,
}

/// A database of one engine, used by one test.
pub(crate) trait Side {
    /// Creates an empty database; for gdbm, only the path.
    fn new() -> Self
    where
        Self: Sized;

    /// Creates an empty database that accepts every key and corrupt records.
    fn lenient() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Returns a database that does not exist yet, if the migration can create it; else an empty one.
    fn absent() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Whether the file or the table exists.
    fn is_there(&self) -> bool {
        true
    }

    /// The engine's name.
    fn engine(&self) -> &'static str;

    fn dsn(&self) -> String;

    /// The largest count that it can hold.
    fn limit(&self) -> i64 {
        i64::MAX
    }

    /// Whether records expire by themselves in it.
    fn has_ttl(&self) -> bool {
        false
    }

    /// Returns the stored form of a record as another program would write it.
    fn raw(&self, record: &Record, zone: &str) -> Vec<u8>;

    /// Returns valid records in every stored form. Digests are distinct.
    fn awkward(&self, zone: &str) -> Vec<Planted>;

    /// Returns stored forms that are not records. Only a lenient database must accept them.
    fn damaged(&self) -> Vec<Vec<u8>>;

    /// Stores raw records, replacing existing ones.
    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]);

    /// Returns the stored key of a digest.
    fn key(&self, digest: &str) -> String {
        digest.to_owned()
    }

    /// Returns everything in the database, as the database's own program shows it.
    fn all(&self) -> Content;

    /// Returns how the database's own program shows a record stored by pyzor-migrate.
    fn shows(&self, record: &Record, zone: &str) -> String;

    /// Settings of pyzord for this database.
    fn settings(&self) -> String {
        format!("Engine = {}\nDigestDB = {}\n", self.engine(), self.dsn())
    }

    /// Stores whole records.
    fn plant(&self, records: &[(&str, Record)], zone: &str) {
        let raw = |(key, record): &(&str, Record)| (key.as_bytes().to_vec(), self.raw(record, zone));
        self.put(&records.iter().map(raw).collect::<Vec<_>>());
    }

    /// Asserts that the database holds exactly this.
    #[track_caller]
    fn expect(&self, content: &Content) {
        self.expect_when("", content);
    }

    /// Asserts that the database holds exactly this; `occasion` is for the failure message.
    #[track_caller]
    fn expect_when(&self, occasion: &str, content: &Content) {
        let all = self.all();
        let differs = |key: &&String| all.get(*key) != content.get(*key);
        let keys: BTreeSet<_> = all.keys().chain(content.keys()).filter(differs).collect();
        let lines = keys
            .iter()
            .take(10)
            .map(|key| format!("{key}\n  is  {:?}\n  not {:?}\n", all.get(*key), content.get(*key)));
        assert!(
            keys.is_empty(),
            "{occasion} {} of {} records of {} differ:\n{}",
            keys.len(),
            content.len(),
            self.engine(),
            lines.collect::<String>()
        );
    }

    /// Returns the content that the database would have with these records.
    fn showing(&self, records: &[(&str, Record)], zone: &str) -> Content {
        records.iter().map(|(digest, record)| (self.key(digest), self.shows(record, zone))).collect()
    }
}
