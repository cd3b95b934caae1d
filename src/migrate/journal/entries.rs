//! The journal's entries for keys and digests.

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::{Journal, JournalError, MOVED, UNCONFIRMED, UNDER_WAY};
use crate::migrate::moved_counts::MovedCounts;
use crate::migrate::redb_panics::RedbError;
use pyzor_wire::digest::Digest;

/// A key of the source and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::migrate) struct JournalKey {
    pub(in crate::migrate) digest: Digest,
    pub(in crate::migrate) key: Vec<u8>,
}

/// An addition that is about to be made, or may have been made by an interrupted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate) struct UnconfirmedAddition {
    pub(in crate::migrate) digest: Digest,
    /// Counts of reports and of whitelistings in the destination before the addition.
    pub(in crate::migrate) before: (i64, i64),
    /// Counts of reports and of whitelistings to be added.
    pub(in crate::migrate) added: (i64, i64),
}

/// Returns the name of a key in the tables. It begins with the digest, so that one range holds all keys of a digest.
fn table_name(key: &JournalKey) -> Vec<u8> {
    let hex = key.digest.to_hex();
    let odd: &[u8] = if key.key == hex { b"" } else { &key.key };
    [&hex, odd].concat()
}

impl Journal {
    /// Whether nothing has been moved and no addition is unconfirmed.
    pub(in crate::migrate) fn is_empty(&self) -> Result<bool, JournalError> {
        self.read(|transaction| {
            let is_empty =
                |table| -> Result<bool, RedbError> { Ok(transaction.open_table(table)?.is_empty()?) };
            Ok(is_empty(MOVED)? && is_empty(UNDER_WAY)?)
        })
    }

    /// Returns the counts that have been moved for each of these keys.
    pub(in crate::migrate) fn moved(
        &self,
        keys: &[JournalKey],
    ) -> Result<Vec<Option<MovedCounts>>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            keys.iter()
                .map(|key| Ok(table.get(table_name(key).as_slice())?.map(|moved| MovedCounts(moved.value()))))
                .collect()
        })
    }

    /// Returns for each digest whether anything has been moved from any of its keys.
    pub(in crate::migrate) fn has_moved(&self, digests: &[Digest]) -> Result<Vec<bool>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            let has_moved = |digest: &Digest| {
                let hex = digest.to_hex();
                let first = table.range(hex.as_slice()..)?.next().transpose()?;
                Ok(first.is_some_and(|(name, _)| name.value().starts_with(&hex)))
            };
            digests.iter().map(has_moved).collect()
        })
    }

    /// Stores durably the additions that are about to be made, and the counts of each key that will then have been
    /// moved.
    pub(in crate::migrate) fn begin(
        &self,
        unconfirmed: &[UnconfirmedAddition],
        under_way: &[(JournalKey, MovedCounts)],
    ) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(UNCONFIRMED)?;
            for addition in unconfirmed {
                table.insert(addition.digest.to_hex().as_slice(), (addition.before, addition.added))?;
            }
            let mut table = transaction.open_table(UNDER_WAY)?;
            for (key, moved) in under_way {
                table.insert(table_name(key).as_slice(), moved.0.clone())?;
            }
            Ok(())
        })
    }

    /// Stores durably the counts that have been moved, and that no addition is unconfirmed.
    pub(in crate::migrate) fn finish(&self, done: &[(JournalKey, MovedCounts)]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for (key, moved) in done {
                table.insert(table_name(key).as_slice(), moved.0.clone())?;
            }
            drop(table);
            clear_unconfirmed(transaction)
        })
    }

    /// Marks keys as deleted from the source.
    pub(in crate::migrate) fn mark_deleted(&self, keys: &[JournalKey]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for key in keys {
                let name = table_name(key);
                let known = table.get(name.as_slice())?.map(|moved| MovedCounts(moved.value()));
                if let Some(moved) = known {
                    table.insert(name.as_slice(), moved.deleted().0)?;
                }
            }
            Ok(())
        })
    }

    /// Returns the additions that an interrupted run may or may not have made.
    pub(in crate::migrate) fn unconfirmed(&self) -> Result<Vec<UnconfirmedAddition>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(UNCONFIRMED)?;
            let mut unconfirmed = Vec::new();
            for entry in table.iter()? {
                let (digest, counts) = entry?;
                let (before, added) = counts.value();
                if let Some(digest) = Digest::from_hex(digest.value()) {
                    unconfirmed.push(UnconfirmedAddition { digest, before, added });
                }
            }
            Ok(unconfirmed)
        })
    }

    /// Stores durably that, of the unconfirmed additions, those for these digests were made and no others.
    pub(in crate::migrate) fn confirm(&self, made: &[Digest]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut moved = transaction.open_table(MOVED)?;
            let under_way = transaction.open_table(UNDER_WAY)?;
            for digest in made {
                let hex = digest.to_hex();
                for entry in under_way.range(hex.as_slice()..)? {
                    let (name, counted) = entry?;
                    if !name.value().starts_with(&hex) {
                        break;
                    }
                    moved.insert(name.value(), counted.value())?;
                }
            }
            drop((moved, under_way));
            clear_unconfirmed(transaction)
        })
    }
}

/// Empties the tables of unconfirmed additions.
fn clear_unconfirmed(transaction: &WriteTransaction) -> Result<(), RedbError> {
    transaction.delete_table(UNCONFIRMED)?;
    transaction.delete_table(UNDER_WAY)?;
    transaction.open_table(UNCONFIRMED)?;
    transaction.open_table(UNDER_WAY)?;
    Ok(())
}
