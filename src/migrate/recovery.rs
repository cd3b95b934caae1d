//! Finds out which additions of an interrupted run were made.
//!
//! An interrupted run leaves in the journal, for each digest of its last batch, the counts that the destination had
//! before and the counts to be added. Counts in the destination only grow, so the addition was made if they are now at
//! least the sum. This is wrong in one case: an addition that was not made looks made if servers have added at least as
//! much to the record between the kill and the next run. docs/migrating.md tells operators to avoid that.

use std::time::Duration;

use tokio::task::block_in_place;

use super::journal::{Journal, UnconfirmedAddition};
use super::transfer::{MigrateError, Transfer};
use crate::record::{Record, Tally};
use crate::storage::bulk::{Bulk, Item};
use pyzor_wire::digest::Digest;

/// Time that a destination gets to finish the operations that a killed run has sent to it.
const SETTLING: Duration = Duration::from_secs(2);
/// Time between two reads. The destination has settled when they agree.
const SETTLED: Duration = Duration::from_secs(1);

impl Transfer<'_> {
    /// Confirms or drops the last batch of an interrupted run, and returns whether there was an earlier run.
    pub(super) async fn recover(&self, journal: &Journal) -> Result<bool, MigrateError> {
        let is_rerun = !block_in_place(|| journal.is_empty())?;
        let unconfirmed = block_in_place(|| journal.unconfirmed())?;
        if unconfirmed.is_empty() {
            return Ok(is_rerun);
        }
        let destination = self.destination()?;
        let keys = unconfirmed.iter().map(|addition| addition.digest.to_hex().to_vec()).collect();
        let items = self.read_settled(keys, destination.as_ref()).await?;
        let is_made = |(addition, item): &(&UnconfirmedAddition, Option<Item>)| {
            let now = item.as_ref().and_then(|item| item.record.as_ref().ok()).copied();
            was_added(addition, &now.unwrap_or_default(), destination.as_ref())
        };
        let made: Vec<Digest> =
            unconfirmed.iter().zip(items).filter(is_made).map(|(addition, _)| addition.digest).collect();
        block_in_place(|| journal.confirm(&made))?;
        Ok(true)
    }

    /// Reads keys of the destination, and waits until it has finished the operations that a killed process has sent to
    /// it.
    async fn read_settled(
        &self,
        keys: Vec<Vec<u8>>,
        destination: &dyn Bulk,
    ) -> Result<Vec<Option<Item>>, MigrateError> {
        let mut items = destination.read(keys.clone()).await?;
        if !destination.has_stragglers() {
            return Ok(items);
        }
        self.stop.sleep(SETTLING).await?;
        loop {
            let later = destination.read(keys.clone()).await?;
            if later == items {
                return Ok(items);
            }
            items = later;
            self.stop.sleep(SETTLED).await?;
        }
    }
}

/// Whether an addition has been made, judging by the destination's present record.
fn was_added(addition: &UnconfirmedAddition, now: &Record, destination: &dyn Bulk) -> bool {
    let after = Record {
        reports: Tally { count: addition.before.0.saturating_add(addition.added.0), ..Tally::default() },
        whitelists: Tally { count: addition.before.1.saturating_add(addition.added.1), ..Tally::default() },
    };
    let after = destination.clamp(&after);
    let tallies = [
        (addition.added.0, after.reports.count, now.reports.count),
        (addition.added.1, after.whitelists.count, now.whitelists.count),
    ];
    let mut changed = tallies.iter().filter(|(added, ..)| *added != 0).peekable();
    // An addition of times alone may be repeated without harm.
    changed.peek().is_some()
        && changed.all(|(added, after, now)| if *added > 0 { now >= after } else { now <= after })
}
