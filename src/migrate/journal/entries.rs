//! What a journal knows of keys and digests, and how it takes note of it.

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

/// A digest that is just being added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::migrate) struct UnconfirmedAddition {
    pub(in crate::migrate) digest: Digest,
    /// The counts of reports and of whitelistings that the destination had.
    pub(in crate::migrate) before: (i64, i64),
    /// Those that are added.
    pub(in crate::migrate) added: (i64, i64),
}

/// The name under which a key is in the journal: one digest's keys are neighbours.
fn name(place: &JournalKey) -> Vec<u8> {
    let hex = place.digest.to_hex();
    let odd: &[u8] = if place.key == hex { b"" } else { &place.key };
    [&hex, odd].concat()
}

impl Journal {
    /// Whether nothing is in it.
    pub(in crate::migrate) fn is_empty(&self) -> Result<bool, JournalError> {
        self.read(|transaction| {
            let is_empty =
                |table| -> Result<bool, RedbError> { Ok(transaction.open_table(table)?.is_empty()?) };
            Ok(is_empty(MOVED)? && is_empty(UNDER_WAY)?)
        })
    }

    /// What is known of each of these keys.
    pub(in crate::migrate) fn moved(
        &self,
        places: &[JournalKey],
    ) -> Result<Vec<Option<MovedCounts>>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            places
                .iter()
                .map(|place| Ok(table.get(name(place).as_slice())?.map(|moved| MovedCounts(moved.value()))))
                .collect()
        })
    }

    /// Of which of these digests any key is known.
    pub(in crate::migrate) fn touched(&self, digests: &[Digest]) -> Result<Vec<bool>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            let is_touched = |digest: &Digest| {
                let hex = digest.to_hex();
                let first = table.range(hex.as_slice()..)?.next().transpose()?;
                Ok(first.is_some_and(|(name, _)| name.value().starts_with(&hex)))
            };
            digests.iter().map(is_touched).collect()
        })
    }

    /// Takes note of what is about to be done, durably.
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
            for (place, moved) in under_way {
                table.insert(name(place).as_slice(), moved.0.clone())?;
            }
            Ok(())
        })
    }

    /// Takes note of what has been done, and that nothing else is under way, durably.
    pub(in crate::migrate) fn finish(&self, done: &[(JournalKey, MovedCounts)]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for (place, moved) in done {
                table.insert(name(place).as_slice(), moved.0.clone())?;
            }
            drop(table);
            clear(transaction)
        })
    }

    /// Takes note that keys have been deleted from the source.
    pub(in crate::migrate) fn deleted(&self, places: &[JournalKey]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for place in places {
                let name = name(place);
                let known = table.get(name.as_slice())?.map(|moved| MovedCounts(moved.value()));
                if let Some(moved) = known {
                    table.insert(name.as_slice(), moved.deleted().0)?;
                }
            }
            Ok(())
        })
    }

    /// What was under way when a former run was interrupted.
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

    /// Of what was under way, that for these digests has been done, and nothing else.
    pub(in crate::migrate) fn settle(&self, done: &[Digest]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut moved = transaction.open_table(MOVED)?;
            let under_way = transaction.open_table(UNDER_WAY)?;
            for digest in done {
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
            clear(transaction)
        })
    }
}

/// Notes that nothing is under way any more.
fn clear(transaction: &WriteTransaction) -> Result<(), RedbError> {
    transaction.delete_table(UNCONFIRMED)?;
    transaction.delete_table(UNDER_WAY)?;
    transaction.open_table(UNCONFIRMED)?;
    transaction.open_table(UNDER_WAY)?;
    Ok(())
}
