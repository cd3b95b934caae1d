//! What is to be done for each digest of a move or a merge.

use super::moved_counts::MovedCounts;
use super::transfer::RecordToMove;
use crate::record::Record;
use crate::storage::bulk::{Addition, Bulk, Item, united};

/// What is to be done for one digest, and what the journal knows of its keys.
pub(super) struct DigestPlan {
    pub(super) members: Vec<(RecordToMove, Option<MovedCounts>)>,
    pub(super) verdict: DigestAction,
    /// Whether the destination does not have any more what was moved before.
    pub(super) is_gone: bool,
}

pub(super) enum DigestAction {
    /// Everything is there.
    Nothing,
    /// It is added to what is there.
    Add(Record, Option<Item>),
    /// It cannot be moved.
    Fail(String),
}

/// What was found before an addition.
pub(super) fn found_before(addition: &Addition) -> Record {
    let record = addition.seen.as_ref().and_then(|item| item.record.as_ref().ok());
    record.copied().unwrap_or_default()
}

/// What of some keys has not been moved yet.
fn sum(members: &[(RecordToMove, Option<MovedCounts>)]) -> Option<Record> {
    let rest = |(candidate, known): &(RecordToMove, Option<MovedCounts>)| match known {
        Some(moved) => moved.rest_of(&candidate.record),
        None => Some(candidate.record),
    };
    members.iter().filter_map(rest).reduce(|one, another| united(&one, &another))
}

pub(super) fn sum_of_all(members: &[(RecordToMove, Option<MovedCounts>)]) -> Record {
    let records = members.iter().map(|(candidate, _)| candidate.record);
    records.reduce(|one, another| united(&one, &another)).unwrap_or_default()
}

/// What is to be done for a digest to which something is added.
pub(super) fn plan_digest(
    mut members: Vec<(RecordToMove, Option<MovedCounts>)>,
    found: Option<Item>,
    destination: &dyn Bulk,
    deletes: bool,
) -> DigestPlan {
    let is_known = |known: &Option<MovedCounts>| known.as_ref().is_some_and(|known| !known.was_deleted());
    let is_gone = found.is_none() && members.iter().any(|(_, known)| is_known(known));
    let verdict = match &found {
        // It has expired there, was moved on, or lost. The source still has it, unless it is to be deleted there.
        None if is_gone && !deletes => {
            sum(&members).map_or(DigestAction::Nothing, |record| DigestAction::Add(record, None))
        }
        None => {
            members.iter_mut().filter(|(_, known)| is_known(known)).for_each(|(_, known)| *known = None);
            DigestAction::Add(sum(&members).unwrap_or_default(), None)
        }
        Some(Item { record: Err(why), .. }) => DigestAction::Fail(format!("in the destination: {why}")),
        Some(Item { record: Ok(there), .. }) => {
            let was_moved = members.iter().any(|(_, known)| known.is_some());
            let counts = members.iter().filter_map(|(_, known)| known.as_ref().map(MovedCounts::counts));
            let moved = counts.fold(Record::default(), |mut all, (reports, whitelists)| {
                all.reports.count = all.reports.count.saturating_add(reports);
                all.whitelists.count = all.whitelists.count.saturating_add(whitelists);
                all
            });
            let moved = destination.clamp(&moved);
            if was_moved
                && (there.reports.count < moved.reports.count
                    || there.whitelists.count < moved.whitelists.count)
            {
                DigestAction::Fail("the destination has less than was moved there before".to_owned())
            } else {
                match sum(&members) {
                    None => DigestAction::Nothing,
                    Some(record) => DigestAction::Add(record, found.clone()),
                }
            }
        }
    };
    DigestPlan { members, verdict, is_gone: is_gone && !deletes }
}
