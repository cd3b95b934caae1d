//! Moving and merging with a journal: nothing is lost and nothing is counted twice, whatever interrupts it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::task::block_in_place;

use super::compare::lacks;
use super::digest_plan::{DigestAction, DigestPlan, found_before, plan_digest, sum_of_all};
use super::journal::{JournalKey, UnconfirmedAddition};
use super::moved_counts::MovedCounts;
use super::options::VerifyMode;
use super::record_limits::{awaits_disk, is_clamped};
use super::transfer::{ATTEMPTS, MigrateError, RecordToMove, Transfer};
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{Addition, Bulk, ChangeOutcome, Item, united};
use pyzor_wire::digest::Digest;

/// How long ago a record with times of whole seconds must have changed last to be deleted at once: one that is counted
/// anew in the same second could not be told from the former. Younger ones are deleted when a second look, after a pause,
/// finds them as they were, so that the clocks of servers may be wrong by less than this.
const QUIET_SECONDS: i64 = 3600;
/// That pause.
pub(super) const PAUSE: Duration = Duration::from_secs(3);
impl Transfer<'_> {
    /// Moves records, of which nothing is ever counted twice.
    pub(super) async fn move_on(&mut self, candidates: Vec<RecordToMove>) -> Result<(), MigrateError> {
        let destination = self.destination()?;
        let mut steps = self.plan(candidates, destination.as_ref()).await?;
        let mut outcomes = self.carry_out(&steps, destination.as_ref()).await?;
        destination.sync().await?;
        if self.options.delete && self.options.verify == VerifyMode::Afterwards {
            self.read_back(&steps, &mut outcomes, destination.as_ref()).await?;
        }
        let awaits_disk = awaits_disk(self.options, destination.as_ref());
        let has_additions = steps.iter().any(|step| matches!(step.verdict, DigestAction::Add(..)));
        let mut moved = Vec::new();
        let mut to_delete = Vec::new();
        for (step, outcome) in steps.drain(..).zip(outcomes) {
            let is_put = !matches!(step.verdict, DigestAction::Nothing);
            for (candidate, known) in step.members {
                match &outcome {
                    ChangeOutcome::Refused(why) => {
                        self.fail(&candidate.item.key, why);
                        continue;
                    }
                    ChangeOutcome::Changed => {
                        // It changes all the time.
                        self.counts.left += u64::from(candidate.is_new);
                        continue;
                    }
                    ChangeOutcome::Done => {}
                }
                let place = JournalKey { digest: candidate.digest, key: candidate.item.key.clone() };
                if is_put {
                    self.counts.transferred += u64::from(candidate.is_new || known.is_none());
                    moved.push((place.clone(), MovedCounts::with(known.as_ref(), &candidate.record)));
                } else {
                    self.counts.known += u64::from(candidate.is_new && self.round.is_rerun);
                }
                self.counts.gone += u64::from(candidate.is_new && step.is_gone);
                if self.options.delete {
                    // What is as it was in the round before has not changed since, whatever its time says.
                    // And what the destination had then is on its disk.
                    let was_put = self.round.put.contains(&candidate.item.key);
                    if is_put && !self.round.is_first {
                        self.round.put.insert(candidate.item.key.clone());
                    }
                    if !self.round.is_first && !is_put && !was_put {
                        to_delete.push((place, candidate.item));
                    } else if was_put {
                        // It is met twice.
                    } else if self.is_young(&candidate.record) {
                        self.round.young += 1;
                    } else if awaits_disk {
                        self.round.undurable += 1;
                    } else {
                        to_delete.push((place, candidate.item));
                    }
                }
            }
        }
        if let Some(journal) = &self.journal
            && (has_additions || !moved.is_empty())
        {
            block_in_place(|| journal.finish(&moved))?;
        }
        let (places, items): (Vec<JournalKey>, Vec<Item>) = to_delete.into_iter().unzip();
        let mut deleted = Vec::new();
        for (place, outcome) in places.into_iter().zip(self.source.delete(items).await?) {
            match outcome {
                ChangeOutcome::Done => deleted.push(place),
                ChangeOutcome::Changed => self.round.again.push(place.key),
                ChangeOutcome::Refused(why) => self.fail(&place.key, &why),
            }
        }
        self.counts.deleted += deleted.len() as u64;
        if let Some(journal) = self.journal.as_ref().filter(|_| !deleted.is_empty()) {
            block_in_place(|| journal.deleted(&deleted))?;
        }
        Ok(())
    }

    fn is_young(&self, record: &Record) -> bool {
        self.source.has_whole_seconds()
            && record
                .last_change()
                .is_some_and(|last| last.seconds() > Timestamp::now().seconds() - QUIET_SECONDS)
    }

    /// What is to be done for each digest.
    async fn plan(
        &self,
        candidates: Vec<RecordToMove>,
        destination: &dyn Bulk,
    ) -> Result<Vec<DigestPlan>, MigrateError> {
        let Some(journal) = &self.journal else { return Ok(Vec::new()) };
        // A scan may meet a key twice.
        let mut by_key: HashMap<Vec<u8>, RecordToMove> = HashMap::with_capacity(candidates.len());
        for candidate in candidates {
            by_key.insert(candidate.item.key.clone(), candidate);
        }
        let mut by_digest: BTreeMap<Digest, Vec<RecordToMove>> = BTreeMap::new();
        for (_, candidate) in by_key {
            by_digest.entry(candidate.digest).or_default().push(candidate);
        }
        let places: Vec<JournalKey> = by_digest
            .values()
            .flatten()
            .map(|candidate| JournalKey { digest: candidate.digest, key: candidate.item.key.clone() })
            .collect();
        let digests: Vec<Digest> = by_digest.keys().copied().collect();
        let mut known = block_in_place(|| journal.moved(&places))?.into_iter();
        let may_add = match self.options.merge {
            true => vec![true; digests.len()],
            // What the destination has of these is from here.
            false => block_in_place(|| journal.touched(&digests))?,
        };
        let found = destination.read(digests.iter().map(|digest| digest.to_hex().to_vec()).collect()).await?;
        let steps = by_digest.into_values().zip(may_add).zip(found).map(|((members, may_add), found)| {
            let members = members.into_iter().map(|member| (member, known.next().flatten())).collect();
            if found.is_some() && !may_add {
                let why = "the destination has it already: --merge adds to what is there".to_owned();
                return DigestPlan { members, verdict: DigestAction::Fail(why), is_gone: false };
            }
            plan_digest(members, found, destination, self.options.delete)
        });
        Ok(steps.collect())
    }

    /// Does it; says what became of each step.
    async fn carry_out(
        &mut self,
        steps: &[DigestPlan],
        destination: &dyn Bulk,
    ) -> Result<Vec<ChangeOutcome>, MigrateError> {
        let mut outcomes = vec![ChangeOutcome::Done; steps.len()];
        let (mut additions, mut add_places) = (Vec::new(), Vec::new());
        let same_engine = self.source.engine() == destination.engine();
        for (at, step) in steps.iter().enumerate() {
            match (&step.verdict, step.members.first()) {
                (DigestAction::Add(record, seen), Some((first, _))) => {
                    add_places.push(at);
                    let is_whole = same_engine && step.members.len() == 1 && *record == first.record;
                    let held = is_whole.then(|| first.item.held.clone());
                    additions.push(self.addition(first.digest, *record, seen.clone(), held));
                }
                (DigestAction::Fail(why), _) => outcomes[at] = ChangeOutcome::Refused(why.clone()),
                _ => {}
            }
        }
        let sums = additions.iter().map(|addition| united(&found_before(addition), &addition.record));
        self.counts.clamped += sums.filter(|record| is_clamped(destination, record)).count() as u64;
        for _ in 0..ATTEMPTS {
            if additions.is_empty() {
                break;
            }
            self.begin(steps, &add_places, &additions)?;
            let mut again = Vec::new();
            for (at, outcome) in add_places.drain(..).zip(destination.add(additions.clone()).await?) {
                if outcome == ChangeOutcome::Changed {
                    again.push(at);
                }
                outcomes[at] = outcome;
            }
            // Somebody else counts there; what he has made of it is looked at, and then added to.
            additions.retain(|addition| {
                again.iter().any(|at| {
                    steps[*at].members.first().is_some_and(|(first, _)| first.digest == addition.digest)
                })
            });
            let keys = additions.iter().map(|addition| addition.digest.to_hex().to_vec()).collect();
            for (addition, seen) in additions.iter_mut().zip(destination.read(keys).await?) {
                *addition = self.addition(addition.digest, addition.record, seen, addition.held.take());
            }
            add_places = again;
        }
        Ok(outcomes)
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

    /// Takes note of what is about to be added.
    fn begin(
        &self,
        steps: &[DigestPlan],
        places: &[usize],
        additions: &[Addition],
    ) -> Result<(), MigrateError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let unconfirmed_addition = |addition: &Addition| {
            let (there, added) = (found_before(addition), &addition.record);
            UnconfirmedAddition {
                digest: addition.digest,
                before: (there.reports.count, there.whitelists.count),
                added: (added.reports.count, added.whitelists.count),
            }
        };
        let unconfirmed: Vec<UnconfirmedAddition> = additions.iter().map(unconfirmed_addition).collect();
        let members = places.iter().flat_map(|at| &steps[*at].members);
        let under_way: Vec<(JournalKey, MovedCounts)> = members
            .map(|(candidate, known)| {
                let place = JournalKey { digest: candidate.digest, key: candidate.item.key.clone() };
                (place, MovedCounts::with(known.as_ref(), &candidate.record))
            })
            .collect();
        Ok(block_in_place(|| journal.begin(&unconfirmed, &under_way))?)
    }

    /// Compares what has been written with what should have been.
    async fn read_back(
        &self,
        steps: &[DigestPlan],
        outcomes: &mut [ChangeOutcome],
        destination: &dyn Bulk,
    ) -> Result<(), MigrateError> {
        let written: Vec<usize> = (0..steps.len())
            .filter(|at| outcomes[*at] == ChangeOutcome::Done && !steps[*at].members.is_empty())
            .collect();
        let keys = written.iter().map(|at| steps[*at].members[0].0.digest.to_hex().to_vec()).collect();
        let expected = written.iter().map(|at| sum_of_all(&steps[*at].members));
        let expected = destination.read_back(expected.collect()).await?;
        for ((at, item), expected) in written.into_iter().zip(destination.read(keys).await?).zip(expected) {
            // Servers may have added to it.
            let differs = lacks(&expected, item.as_ref());
            if let Some(why) = differs {
                outcomes[at] = ChangeOutcome::Refused(format!("the destination has something else: {why}"));
            }
        }
        Ok(())
    }
}
