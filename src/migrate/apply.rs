//! Applies a plan: adds records to the destination, and retries where another writer changed a record meanwhile.

use tokio::task::block_in_place;

use super::compare::lacks;
use super::journal::{Journal, UnconfirmedAddition};
use super::moved_counts::MovedCounts;
use super::plan::{DigestAction, DigestPlan, sum_of_all};
use super::record_limits::is_clamped;
use super::transfer::{ATTEMPTS, MigrateError, Transfer};
use crate::record::Record;
use crate::storage::bulk::{Addition, Bulk, BulkError, ChangeOutcome, Item, united};
use pyzor_wire::digest::Digest;

/// An addition that has not been made yet, and the index of its plan.
type Pending = (usize, Addition);

impl Transfer<'_> {
    /// Carries out each plan, and returns its outcome. [`ChangeOutcome::Changed`] remains only after [`ATTEMPTS`].
    pub(super) async fn apply(
        &mut self,
        plans: &[DigestPlan],
        destination: &dyn Bulk,
        journal: &Journal,
    ) -> Result<Vec<ChangeOutcome>, MigrateError> {
        let mut outcomes = vec![ChangeOutcome::Done; plans.len()];
        let mut pending: Vec<Pending> = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            match &plan.action {
                DigestAction::Nothing => {}
                DigestAction::Add(record, seen) => {
                    let held = self.held_form(plan, record, destination);
                    pending.push((index, self.addition(plan.digest, *record, seen.clone(), held)));
                }
                DigestAction::Refuse(why) => outcomes[index] = ChangeOutcome::Refused(why.clone()),
            }
        }
        let sums = pending.iter().map(|(_, addition)| united(&found_before(addition), &addition.record));
        self.counts.clamped += sums.filter(|record| is_clamped(destination, record)).count() as u64;
        for _ in 0..ATTEMPTS {
            if pending.is_empty() {
                break;
            }
            begin(journal, plans, &pending)?;
            let additions = pending.iter().map(|(_, addition)| addition.clone()).collect();
            let results = destination.add(additions).await?;
            let mut changed = Vec::new();
            for ((index, addition), outcome) in pending.into_iter().zip(results) {
                if outcome == ChangeOutcome::Changed {
                    changed.push((index, addition));
                }
                outcomes[index] = outcome;
            }
            pending = self.read_again(changed, destination).await?;
        }
        Ok(outcomes)
    }

    /// Returns the form in which the source holds a record, where the destination can take it over unchanged: the whole
    /// record of one key, between databases of one engine.
    fn held_form(&self, plan: &DigestPlan, record: &Record, destination: &dyn Bulk) -> Option<Vec<u8>> {
        match plan.members.as_slice() {
            [only] if self.source.engine() == destination.engine() && *record == only.source.record => {
                Some(only.source.item.held.clone())
            }
            _ => None,
        }
    }

    /// Reads records that another writer has changed, to add to their present counts.
    async fn read_again(
        &self,
        changed: Vec<Pending>,
        destination: &dyn Bulk,
    ) -> Result<Vec<Pending>, BulkError> {
        let keys = changed.iter().map(|(_, addition)| addition.digest.to_hex().to_vec()).collect();
        let found = destination.read(keys).await?;
        let renewed = changed.into_iter().zip(found).map(|((index, addition), seen)| {
            (index, self.addition(addition.digest, addition.record, seen, addition.held))
        });
        Ok(renewed.collect())
    }

    fn addition(
        &self,
        digest: Digest,
        record: Record,
        seen: Option<Item>,
        held: Option<Vec<u8>>,
    ) -> Addition {
        let addition = Addition { digest, record, seen, expires: None, held };
        let expires = self.expires(&united(&found_before(&addition), &record));
        Addition { expires, ..addition }
    }
}

/// Returns the destination's record as it was read before an addition.
fn found_before(addition: &Addition) -> Record {
    let record = addition.seen.as_ref().and_then(|item| item.record.as_ref().ok());
    record.copied().unwrap_or_default()
}

/// Stores in the journal the additions that are about to be made.
fn begin(journal: &Journal, plans: &[DigestPlan], pending: &[Pending]) -> Result<(), MigrateError> {
    let unconfirmed = pending.iter().map(|(_, addition)| {
        let (before, added) = (found_before(addition), &addition.record);
        UnconfirmedAddition {
            digest: addition.digest,
            before: (before.reports.count, before.whitelists.count),
            added: (added.reports.count, added.whitelists.count),
        }
    });
    let members = pending.iter().flat_map(|(index, _)| &plans[*index].members);
    let under_way = members.map(|member| {
        (member.source.journal_key(), MovedCounts::with(member.moved.as_ref(), &member.source.record))
    });
    let (unconfirmed, under_way): (Vec<_>, Vec<_>) = (unconfirmed.collect(), under_way.collect());
    Ok(block_in_place(|| journal.begin(&unconfirmed, &under_way))?)
}

/// Reads back the written records, and refuses the plans whose record is missing or incomplete.
pub(super) async fn read_back(
    plans: &[DigestPlan],
    outcomes: &mut [ChangeOutcome],
    destination: &dyn Bulk,
) -> Result<(), MigrateError> {
    let written: Vec<usize> =
        (0..plans.len()).filter(|index| outcomes[*index] == ChangeOutcome::Done).collect();
    let keys = written.iter().map(|index| plans[*index].digest.to_hex().to_vec()).collect();
    let expected = written.iter().map(|index| sum_of_all(&plans[*index].members)).collect();
    let expected = destination.read_back(expected).await?;
    for ((index, item), expected) in written.into_iter().zip(destination.read(keys).await?).zip(expected) {
        // Servers may have added to it: more than expected is fine.
        if let Some(why) = lacks(&expected, item.as_ref()) {
            outcomes[index] = ChangeOutcome::Refused(format!("the destination has another record: {why}"));
        }
    }
    Ok(())
}
