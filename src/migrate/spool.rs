//! A temporary file for data that must wait for the end of a scan: records under odd keys, because a digest may have
//! several, and digests that differ so far. The file has no name and vanishes with the process.

use redb::{Database, Durability, TableDefinition};

use super::redb_panics::RedbError;
use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::BulkError;
use pyzor_wire::digest::{Digest, HEX_LEN};

/// Memory for redb's cache, in bytes.
const CACHE: usize = 32 << 20;

type PackedRecord = ((i64, Option<i64>, Option<i64>), (i64, Option<i64>, Option<i64>));

/// Records under odd keys. The name is the digest in hexadecimal, followed by the key.
const ODD: TableDefinition<'_, &[u8], PackedRecord> = TableDefinition::new("odd");
/// Digests that differ so far, in hexadecimal.
const SUSPECTS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("suspects");

/// The waiting records and digests. The file is created with the first of them.
#[derive(Default)]
pub(super) struct Spool {
    database: Option<Database>,
}

/// A digest, and its waiting records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpooledDigest {
    pub(super) digest: Digest,
    /// Odd keys and their records.
    pub(super) odd: Vec<(Vec<u8>, Record)>,
}

impl Spool {
    /// Keeps records under odd keys. Replaces an earlier record of a key.
    pub(super) fn keep(&mut self, records: &[(Digest, Vec<u8>, Record)]) -> Result<(), BulkError> {
        if records.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(ODD)?;
            for (digest, key, record) in records {
                let name = [digest.to_hex().as_slice(), key].concat();
                table.insert(name.as_slice(), pack(record))?;
            }
            Ok(())
        })
    }

    /// Keeps digests that differ so far.
    pub(super) fn suspect(&mut self, digests: &[Digest]) -> Result<(), BulkError> {
        if digests.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(SUSPECTS)?;
            for digest in digests {
                table.insert(digest.to_hex().as_slice(), ())?;
            }
            Ok(())
        })
    }

    /// Returns the next waiting digests in order, after the given one or from the start.
    pub(super) fn groups(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<SpooledDigest>, BulkError> {
        let Some(database) = &self.database else { return Ok(Vec::new()) };
        let read = || -> Result<Vec<SpooledDigest>, RedbError> {
            let transaction = database.begin_read()?;
            // After all keys of that digest.
            let start =
                after.map_or_else(Vec::new, |digest| [digest.to_hex().as_slice(), &[0xff; 64]].concat());
            let (odd, suspects) = (transaction.open_table(ODD)?, transaction.open_table(SUSPECTS)?);
            let mut odd = odd.range(start.as_slice()..)?.peekable();
            let mut suspects = suspects.range(start.as_slice()..)?.peekable();
            let mut groups: Vec<SpooledDigest> = Vec::new();
            let digest_of = |name: &[u8]| name.get(..HEX_LEN).and_then(Digest::from_hex);
            while groups.len() < limit {
                let next_odd = match odd.peek() {
                    Some(Ok((name, _))) => digest_of(name.value()),
                    _ => None,
                };
                let next_suspect = match suspects.peek() {
                    Some(Ok((name, _))) => digest_of(name.value()),
                    _ => None,
                };
                let Some(digest) = next_odd.into_iter().chain(next_suspect).min() else {
                    // The end of both tables, or an error.
                    odd.next().transpose()?;
                    suspects.next().transpose()?;
                    break;
                };
                let mut group = SpooledDigest { digest, odd: Vec::new() };
                while let Some(entry) = odd.next_if(
                    |entry| matches!(entry, Ok((name, _)) if digest_of(name.value()) == Some(digest)),
                ) {
                    let (name, record) = entry?;
                    group.odd.push((name.value()[HEX_LEN..].to_vec(), unpack(record.value())));
                }
                if next_suspect == Some(digest) {
                    suspects.next().transpose()?;
                }
                groups.push(group);
            }
            Ok(groups)
        };
        read().map_err(|error| failed(&error))
    }

    fn write(
        &mut self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<(), RedbError>,
    ) -> Result<(), BulkError> {
        if self.database.is_none() {
            self.database = Some(create().map_err(|error| failed(&error))?);
        }
        let Some(database) = &self.database else { return Ok(()) };
        let write = || -> Result<(), RedbError> {
            let mut transaction = database.begin_write()?;
            // The file has no name: it is lost in a crash anyway.
            transaction.set_durability(Durability::Eventual);
            work(&transaction)?;
            Ok(transaction.commit()?)
        };
        write().map_err(|error| failed(&error))
    }
}

fn create() -> Result<Database, RedbError> {
    let file = tempfile::tempfile()?;
    let database = redb::Builder::new().set_cache_size(CACHE).create_file(file)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ODD)?;
    transaction.open_table(SUSPECTS)?;
    transaction.commit()?;
    Ok(database)
}

fn failed(error: &RedbError) -> BulkError {
    BulkError(format!(
        "cannot use a temporary file in {}: {error}: set TMPDIR to another directory",
        std::env::temp_dir().display()
    ))
}

fn pack(record: &Record) -> PackedRecord {
    let tally =
        |tally: &Tally| (tally.count, tally.first.map(Timestamp::micros), tally.last.map(Timestamp::micros));
    (tally(&record.reports), tally(&record.whitelists))
}

fn unpack((reports, whitelists): PackedRecord) -> Record {
    let tally = |(count, first, last): (i64, Option<i64>, Option<i64>)| Tally {
        count,
        first: first.map(Timestamp::from_micros),
        last: last.map(Timestamp::from_micros),
    };
    Record { reports: tally(reports), whitelists: tally(whitelists) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ordered_by_digest() {
        let digest = |number: u8| Digest::from_bytes([number; 20]);
        let record = |count| Record { reports: Tally { count, ..Tally::default() }, ..Record::default() };
        let mut spool = Spool::default();
        assert_eq!(spool.groups(None, 10), Ok(vec![]));
        let kept = |number, key: &str, count| (digest(number), key.as_bytes().to_vec(), record(count));
        spool.keep(&[kept(2, "B", 1), kept(1, "A", 2), kept(2, "A", 3)]).unwrap();
        spool.keep(&[kept(2, "B", 4)]).unwrap();
        spool.suspect(&[digest(1), digest(3), digest(0)]).unwrap();
        let group = |number, odd: &[(&str, i64)]| SpooledDigest {
            digest: digest(number),
            odd: odd.iter().map(|(key, count)| (key.as_bytes().to_vec(), record(*count))).collect(),
        };
        let all = [group(0, &[]), group(1, &[("A", 2)]), group(2, &[("A", 3), ("B", 4)]), group(3, &[])];
        assert_eq!(spool.groups(None, 10).unwrap(), all);
        assert_eq!(spool.groups(None, 2).unwrap(), all[..2]);
        assert_eq!(spool.groups(Some(digest(1)), 10).unwrap(), all[2..]);
    }
}
