//! What has been reported, to be compared with what a database holds.

use std::collections::BTreeMap;

use super::Reply;

/// A digest of its own for each number.
pub(crate) fn digest(number: u32) -> String {
    format!("{number:040x}")
}

/// For each digest the reports that were acknowledged and those whose outcome is not known.
#[derive(Default)]
pub(crate) struct Ledger {
    acknowledged: BTreeMap<String, i64>,
    unknown: BTreeMap<String, i64>,
}

impl Ledger {
    /// Enters one report of this digest. What was refused has not been counted.
    pub(crate) fn enter(&mut self, digest: &str, reply: Option<&Reply>) {
        match reply.map(Reply::code) {
            Some(200) => self.acknowledge(digest),
            Some(_) => {}
            None => *self.unknown.entry(digest.to_owned()).or_default() += 1,
        }
    }

    /// Enters one report of this digest to a server whose database is elsewhere: what it refused may have
    /// been counted, which the server could not tell.
    pub(crate) fn enter_doubtful(&mut self, digest: &str, reply: Option<&Reply>) {
        let refused = reply.is_some_and(|reply| reply.code() != 200);
        self.enter(digest, reply.filter(|_| !refused));
    }

    /// How many reports are neither known to have been counted nor known not to have been.
    pub(crate) fn doubtful(&self) -> i64 {
        self.unknown.values().sum()
    }

    /// Enters one report that was acknowledged.
    pub(crate) fn acknowledge(&mut self, digest: &str) {
        *self.acknowledged.entry(digest.to_owned()).or_default() += 1;
    }

    /// Adds what another ledger has.
    pub(crate) fn add(&mut self, other: Self) {
        for (digest, count) in other.acknowledged {
            *self.acknowledged.entry(digest).or_default() += count;
        }
        for (digest, count) in other.unknown {
            *self.unknown.entry(digest).or_default() += count;
        }
    }

    /// How many reports were acknowledged.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged.values().sum()
    }

    /// Asserts that everything acknowledged is stored, and nothing that was never sent.
    #[track_caller]
    pub(crate) fn compare(&self, stored: &BTreeMap<String, i64>) {
        let count = |map: &BTreeMap<String, i64>, digest: &str| map.get(digest).copied().unwrap_or_default();
        for digest in self.acknowledged.keys().chain(stored.keys()) {
            let least = count(&self.acknowledged, digest);
            let most = least + count(&self.unknown, digest);
            let found = count(stored, digest);
            assert!((least..=most).contains(&found), "{digest}: {found} stored, expected {least} to {most}");
        }
    }
}
