//! Finds out what an interrupted run has done.

use std::time::Duration;

use tokio::task::block_in_place;

use super::journal::UnconfirmedAddition;
use super::transfer::{MigrateError, Transfer};
use crate::record::{Record, Tally};
use crate::storage::bulk::Bulk;
use pyzor_wire::digest::Digest;

/// How long a change that a former run has sent may take until the destination has made it.
const SETTLING: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(1);

impl Transfer<'_> {
    /// Finds out what of the last batch of an interrupted run was done. Says whether there was such a run.
    pub(super) async fn settle(&mut self) -> Result<bool, MigrateError> {
        let (Some(journal), Some(destination)) = (&self.journal, &self.destination) else { return Ok(false) };
        let is_rerun = !block_in_place(|| journal.is_empty())?;
        let unconfirmed = block_in_place(|| journal.unconfirmed())?;
        if unconfirmed.is_empty() {
            return Ok(is_rerun);
        }
        let keys: Vec<Vec<u8>> =
            unconfirmed.iter().map(|addition| addition.digest.to_hex().to_vec()).collect();
        let mut items = destination.read(keys.clone()).await?;
        if destination.has_stragglers() {
            self.stop.sleep(SETTLING).await?;
            loop {
                let later = destination.read(keys.clone()).await?;
                if later == items {
                    break;
                }
                items = later;
                self.stop.sleep(SETTLED).await?;
            }
        }
        let done: Vec<Digest> = unconfirmed
            .iter()
            .zip(&items)
            .filter(|(addition, item)| {
                let now = item.as_ref().and_then(|item| item.record.as_ref().ok()).copied();
                was_added(addition, &now.unwrap_or_default(), destination.as_ref())
            })
            .map(|(addition, _)| addition.digest)
            .collect();
        block_in_place(|| journal.settle(&done))?;
        Ok(true)
    }
}

/// Whether what was about to be added to a record has been. Counts only grow.
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
    // Without a count it does no harm to add it again.
    changed.peek().is_some()
        && changed.all(|(added, after, now)| if *added > 0 { now >= after } else { now <= after })
}
