//! Plans a move or a merge: decides for each digest of a batch what to do in the destination.

use std::collections::BTreeMap;

use tokio::task::block_in_place;

use super::journal::{Journal, JournalKey};
use super::moved_counts::MovedCounts;
use super::transfer::{MigrateError, SourceRecord, Transfer};
use crate::record::Record;
use crate::storage::bulk::{Bulk, Item, united};
use pyzor_wire::digest::Digest;

/// The action for one digest, and the keys of the source that it is about.
pub(super) struct DigestPlan {
    pub(super) digest: Digest,
    /// Records of the digest, at least one.
    pub(super) members: Vec<PlannedRecord>,
    pub(super) action: DigestAction,
    /// Whether the destination no longer has the record that was moved to it before.
    pub(super) is_gone: bool,
}

/// A record of the source, and how much of its key has been moved before.
pub(super) struct PlannedRecord {
    pub(super) source: SourceRecord,
    /// The journal's entry for the key; none if nothing has been moved.
    pub(super) moved: Option<MovedCounts>,
}

pub(super) enum DigestAction {
    /// Everything has been moved before.
    Nothing,
    /// Add this record to what the destination has.
    Add(Record, Option<Item>),
    /// Do not move the digest, for this reason.
    Refuse(String),
}

impl Transfer<'_> {
    /// Plans a batch, in the order of digests.
    pub(super) async fn plan(
        &self,
        records: Vec<SourceRecord>,
        destination: &dyn Bulk,
        journal: &Journal,
    ) -> Result<Vec<DigestPlan>, MigrateError> {
        let by_digest = group_by_digest(records);
        let keys: Vec<JournalKey> = by_digest.values().flatten().map(SourceRecord::journal_key).collect();
        let digests: Vec<Digest> = by_digest.keys().copied().collect();
        let mut moved = block_in_place(|| journal.moved(&keys))?.into_iter();
        let may_add = match self.options.merge {
            true => vec![true; digests.len()],
            // If a digest is in the journal, its record in the destination was moved there by an earlier batch or run.
            false => block_in_place(|| journal.has_moved(&digests))?,
        };
        let found = destination.read(digests.iter().map(|digest| digest.to_hex().to_vec()).collect()).await?;
        let plans =
            by_digest.into_iter().zip(may_add).zip(found).map(|(((digest, group), may_add), found)| {
                let planned = |source| PlannedRecord { source, moved: moved.next().flatten() };
                let members = group.into_iter().map(planned).collect();
                if found.is_some() && !may_add {
                    let why = "it is already in the destination: use --merge to add to it".to_owned();
                    return DigestPlan { digest, members, action: DigestAction::Refuse(why), is_gone: false };
                }
                plan_digest(digest, members, found, destination, self.options.delete)
            });
        Ok(plans.collect())
    }
}

/// Groups records by digest, each key once: of a key that the scan returned twice, the later record.
fn group_by_digest(records: Vec<SourceRecord>) -> BTreeMap<Digest, Vec<SourceRecord>> {
    let mut by_digest: BTreeMap<Digest, Vec<SourceRecord>> = BTreeMap::new();
    for record in records {
        let group = by_digest.entry(record.digest).or_default();
        group.retain(|earlier| earlier.item.key != record.item.key);
        group.push(record);
    }
    by_digest
}

/// Plans one digest to which something may be added.
fn plan_digest(
    digest: Digest,
    mut members: Vec<PlannedRecord>,
    found: Option<Item>,
    destination: &dyn Bulk,
    deletes: bool,
) -> DigestPlan {
    let mut is_gone = false;
    let action = match found {
        Some(item) => add_to_existing(item, &members, destination),
        None => {
            let is_present = |moved: &MovedCounts| !moved.was_deleted();
            let was_moved = members.iter().any(|member| member.moved.as_ref().is_some_and(is_present));
            is_gone = was_moved && !deletes;
            if is_gone {
                // It has expired in the destination, was moved on, or was lost. The source still has it, and keeps it.
                unmoved(&members).map_or(DigestAction::Nothing, |record| DigestAction::Add(record, None))
            } else {
                // Moves a record again that the destination has lost: the source has the only copy, and will delete it.
                members.iter_mut().for_each(|member| {
                    member.moved.take_if(|moved| is_present(moved));
                });
                DigestAction::Add(unmoved(&members).unwrap_or_default(), None)
            }
        }
    };
    DigestPlan { digest, members, action, is_gone }
}

/// Adds what has not been moved yet to an existing record, unless that has less than was moved to it before.
fn add_to_existing(found: Item, members: &[PlannedRecord], destination: &dyn Bulk) -> DigestAction {
    let existing = match &found.record {
        Ok(existing) => existing,
        Err(why) => {
            return DigestAction::Refuse(format!("cannot add to its record in the destination: {why}"));
        }
    };
    let mut moved = Record::default();
    for (reports, whitelists) in
        members.iter().filter_map(|member| member.moved.as_ref()).map(MovedCounts::counts)
    {
        moved.reports.count = moved.reports.count.saturating_add(reports);
        moved.whitelists.count = moved.whitelists.count.saturating_add(whitelists);
    }
    let moved_at_most = destination.clamp(&moved);
    let has_less = existing.reports.count < moved_at_most.reports.count
        || existing.whitelists.count < moved_at_most.whitelists.count;
    if has_less && members.iter().any(|member| member.moved.is_some()) {
        return DigestAction::Refuse(
            "the destination has lower counts than were moved there before".to_owned(),
        );
    }
    match unmoved(members) {
        None => DigestAction::Nothing,
        Some(record) => DigestAction::Add(record, Some(found)),
    }
}

/// Returns what has not been moved yet, all keys of a digest added up; none if everything has.
fn unmoved(members: &[PlannedRecord]) -> Option<Record> {
    let rest = |member: &PlannedRecord| match &member.moved {
        Some(moved) => moved.rest_of(&member.source.record),
        None => Some(member.source.record),
    };
    members.iter().filter_map(rest).reduce(|one, another| united(&one, &another))
}

/// Returns the records of all keys of a digest, added up.
pub(super) fn sum_of_all(members: &[PlannedRecord]) -> Record {
    let records = members.iter().map(|member| member.source.record);
    records.reduce(|one, another| united(&one, &another)).unwrap_or_default()
}
