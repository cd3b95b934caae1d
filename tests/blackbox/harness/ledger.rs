//! Records of sent reports, which are compared with the database.

use std::collections::BTreeMap;

use super::Reply;

/// Returns a different digest for each number.
pub(crate) fn digest(number: u32) -> String {
    format!("{number:040x}")
}

/// The number of reports of each digest: those acknowledged, and those whose outcome is unknown.
#[derive(Default)]
pub(crate) struct Ledger {
    acknowledged: BTreeMap<String, i64>,
    unknown: BTreeMap<String, i64>,
}

impl Ledger {
    /// Enters one report. Without a reply its outcome is unknown; a refused report has not been counted.
    pub(crate) fn enter(&mut self, digest: &str, reply: Option<&Reply>) {
        match reply.map(Reply::code) {
            Some(200) => self.acknowledge(digest),
            Some(_) => {}
            None => *self.unknown.entry(digest.to_owned()).or_default() += 1,
        }
    }

    /// Enters one report to a server with a remote database, which may have counted a refused report.
    pub(crate) fn enter_doubtful(&mut self, digest: &str, reply: Option<&Reply>) {
        let refused = reply.is_some_and(|reply| reply.code() != 200);
        self.enter(digest, reply.filter(|_| !refused));
    }

    /// Returns the number of reports whose outcome is unknown.
    pub(crate) fn doubtful(&self) -> i64 {
        self.unknown.values().sum()
    }

    /// Enters one acknowledged report.
    pub(crate) fn acknowledge(&mut self, digest: &str) {
        *self.acknowledged.entry(digest.to_owned()).or_default() += 1;
    }

    /// Adds the entries of another ledger.
    pub(crate) fn add(&mut self, other: Self) {
        for (digest, count) in other.acknowledged {
            *self.acknowledged.entry(digest).or_default() += count;
        }
        for (digest, count) in other.unknown {
            *self.unknown.entry(digest).or_default() += count;
        }
    }

    /// Returns the number of acknowledged reports.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged.values().sum()
    }

    /// Asserts that all acknowledged reports are stored, and none that was not sent.
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
