//! Databases of every engine, as both sides of a migration.

use std::collections::{BTreeMap, BTreeSet};

use crate::ours::migrate::record::Record;

/// What a database holds, as another program shows it: escaped texts by escaped keys, the keys as they are
/// stored.
pub(crate) type Content = BTreeMap<String, String>;

/// A record as somebody else may have left it.
pub(crate) struct Planted {
    /// A digest, or whatever else is in its place.
    pub(crate) key: Vec<u8>,
    /// In the words of its database.
    pub(crate) raw: Vec<u8>,
    /// What it says; nothing if it is damaged.
    pub(crate) says: Option<Record>,
}

/// A database of one engine, on either side of a migration, in a place of its own.
pub(crate) trait Side {
    /// An empty database; of gdbm, only where the file would be.
    fn new() -> Self
    where
        Self: Sized;

    /// One that takes keys of all kinds, and records that are damaged.
    fn lenient() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Not even an empty one, where the migration has something to create.
    fn absent() -> Self
    where
        Self: Sized,
    {
        Self::new()
    }

    /// Whether there is a file or a table.
    fn is_there(&self) -> bool {
        true
    }

    /// The engine's name.
    fn engine(&self) -> &'static str;

    /// What leads to it.
    fn dsn(&self) -> String;

    /// The largest number that it counts to.
    fn limit(&self) -> i64 {
        i64::MAX
    }

    /// Whether records expire by themselves in it.
    fn has_ttl(&self) -> bool {
        false
    }

    /// A record in the words of the database, as another program would write it.
    fn raw(&self, record: &Record, zone: &str) -> Vec<u8>;

    /// Valid records of all shapes. Digests are distinct.
    fn awkward(&self, zone: &str) -> Vec<Planted>;

    /// What is no record. It need not fit in other than a lenient database.
    fn damaged(&self) -> Vec<Vec<u8>>;

    /// Stores records in the words of the database, over those that are there.
    fn put(&self, records: &[(Vec<u8>, Vec<u8>)]);

    /// A digest's key as it is stored.
    fn key(&self, digest: &str) -> String {
        digest.to_owned()
    }

    /// Everything in it, as its program shows it.
    fn all(&self) -> Content;

    /// How its program shows a record that the migration has stored.
    fn shows(&self, record: &Record, zone: &str) -> String;

    /// The settings by which a server uses it.
    fn settings(&self) -> String {
        format!("Engine = {}\nDigestDB = {}\n", self.engine(), self.dsn())
    }

    /// Stores whole records.
    fn plant(&self, records: &[(&str, Record)], zone: &str) {
        let raw = |(key, record): &(&str, Record)| (key.as_bytes().to_vec(), self.raw(record, zone));
        self.put(&records.iter().map(raw).collect::<Vec<_>>());
    }

    /// Asserts that this is everything in it.
    #[track_caller]
    fn expect(&self, content: &Content) {
        self.expect_when("", content);
    }

    /// The same, with what to say of the occasion.
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

    /// What it would show if it had been given these records.
    fn showing(&self, records: &[(&str, Record)], zone: &str) -> Content {
        records.iter().map(|(digest, record)| (self.key(digest), self.shows(record, zone))).collect()
    }
}
