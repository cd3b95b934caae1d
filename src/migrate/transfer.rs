//! Copying, moving and merging: batches are read ahead while the one before is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, block_in_place};

use super::compare::{difference, lacks};
use super::journal::{Doubt, Journal, JournalError, Moved, Place};
use super::keys::{Key, classify};
use super::options::{Options, Verify};
use super::progress::{Counts, Progress};
use super::spool::{Group, Spool};
use super::stop::Stop;
use crate::digest::Digest;
use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::{Addition, Bulk, BulkError, Item, Outcome, Put, united};

/// How many records are read before they are written; with a journal, which writes to its disk for each
/// batch, more.
pub(super) const BATCH: usize = 10_000;
const JOURNALLED_BATCH: usize = 20_000;
/// Batches that have been read and wait.
const AHEAD: usize = 1;
/// How long ago a record with times of whole seconds must have changed last to be deleted: one that is
/// counted anew in the same second could not be told from the former.
const QUIET_SECONDS: i64 = 2;
/// How often the source is looked through for records that were changed meanwhile.
const PASSES: u32 = 3;
/// How often a record that changes all the time is tried.
const ATTEMPTS: usize = 10;
/// How long a change that a former run has sent may take until the destination has made it.
const SETTLING: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(1);

/// Why a migration cannot go on.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// A database cannot.
    #[error(transparent)]
    Database(#[from] BulkError),
    /// The journal cannot.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Somebody wanted it to stop.
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

/// A migration under way.
pub(super) struct Transfer<'a> {
    pub(super) options: &'a Options,
    pub(super) source: Arc<dyn Bulk>,
    /// None where there is none and none is to be created.
    pub(super) destination: Option<Arc<dyn Bulk>>,
    pub(super) journal: Option<Journal>,
    pub(super) progress: &'a Progress,
    pub(super) stop: Stop,
    pub(super) counts: Counts,
    pub(super) spool: Spool,
    /// Before that a last change was too long ago.
    pub(super) horizon: Option<Timestamp>,
    round: Round,
    /// A batch of a copy that is being written, while the next one is prepared.
    writing: Option<Writing>,
}

/// The keys of a batch, and what becomes of them.
struct Writing {
    keys: Vec<Vec<u8>>,
    outcomes: JoinHandle<Result<Vec<Outcome>, BulkError>>,
}

/// One look through the source.
#[derive(Debug, Default)]
struct Round {
    /// Whether everything is met for the first time.
    is_first: bool,
    /// Whether an earlier run may have moved something.
    is_rerun: bool,
    /// Keys that were changed after they had been copied.
    again: Vec<Vec<u8>>,
    /// How many were left in the source, having changed just now.
    young: u64,
}

/// A record that is to be moved.
struct Candidate {
    digest: Digest,
    is_odd: bool,
    item: Item,
    record: Record,
}

/// What is to be done for one digest, and what the journal knows of its keys.
struct Step {
    members: Vec<(Candidate, Option<Moved>)>,
    verdict: Verdict,
}

enum Verdict {
    /// Everything is there.
    Nothing,
    /// It is stored whole.
    Put(Record),
    /// It is added to what is there.
    Add(Record, Option<Item>),
    /// It cannot be moved.
    Fail(String),
}

/// Reads a database from its beginning to its end, always a batch ahead.
pub(super) fn read_ahead(
    source: &Arc<dyn Bulk>,
    batch: usize,
) -> mpsc::Receiver<Result<Vec<Item>, BulkError>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let source = Arc::clone(source);
    tokio::spawn(async move {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            match source.scan(from.take(), batch - items.len()).await {
                Ok(page) => {
                    items.extend(page.items);
                    from = page.next;
                    if items.len() < batch && from.is_some() {
                        continue;
                    }
                    // Whoever stops reading has a reason of his own.
                    if sender.send(Ok(std::mem::take(&mut items))).await.is_err() || from.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    receiver
}

impl<'a> Transfer<'a> {
    /// A migration that has not begun.
    pub(super) fn new(
        options: &'a Options,
        source: Arc<dyn Bulk>,
        destination: Option<Arc<dyn Bulk>>,
        journal: Option<Journal>,
        progress: &'a Progress,
        stop: Stop,
    ) -> Self {
        Self {
            options,
            source,
            destination,
            journal,
            progress,
            stop,
            counts: Counts::default(),
            spool: Spool::default(),
            horizon: horizon(options),
            round: Round::default(),
            writing: None,
        }
    }

    /// Moves everything, and finishes what it has begun when it is interrupted.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        let done = self.run_on().await;
        let written = self.written().await;
        done.and(written)
    }

    async fn run_on(&mut self) -> Result<(), Failure> {
        let total = if self.progress.wants_total() { self.source.estimate().await? } else { None };
        self.progress.begin("copying", total);
        self.round.is_rerun = self.settle().await?;
        for pass in 0..PASSES {
            self.round = Round { is_first: pass == 0, is_rerun: self.round.is_rerun, ..Round::default() };
            self.pass().await?;
            if self.round.young == 0 {
                break;
            }
            if pass + 1 < PASSES {
                self.stop.sleep(Duration::from_secs(QUIET_SECONDS.unsigned_abs() + 1)).await?;
            }
        }
        self.counts.left += self.round.young;
        self.write_spool().await?;
        if !self.options.dry_run
            && let Some(destination) = &self.destination
        {
            destination.sync().await?;
        }
        Ok(())
    }

    async fn pass(&mut self) -> Result<(), Failure> {
        let batch = if self.journal.is_some() { JOURNALLED_BATCH } else { BATCH };
        let mut batches = read_ahead(&self.source, batch);
        while let Some(items) = batches.recv().await {
            let items = items?;
            let met = items.len() as u64;
            let is_first = self.round.is_first;
            self.batch(items, is_first).await?;
            self.look_again().await?;
            if is_first {
                self.progress.advance(met);
                self.progress.transferred(self.counts.transferred);
            }
            self.stop.check()?;
        }
        self.written().await?;
        self.progress.transferred(self.counts.transferred);
        for _ in 0..ATTEMPTS {
            if self.round.again.is_empty() {
                break;
            }
            self.look_again().await?;
            self.stop.check()?;
        }
        self.counts.left += self.round.again.len() as u64;
        Ok(())
    }

    /// Copies those once more that were changed after they had been copied.
    async fn look_again(&mut self) -> Result<(), Failure> {
        let again = std::mem::take(&mut self.round.again);
        if !again.is_empty() {
            let items = self.source.read(again).await?;
            self.batch(items.into_iter().flatten().collect(), false).await?;
        }
        Ok(())
    }

    async fn batch(&mut self, items: Vec<Item>, is_first: bool) -> Result<(), Failure> {
        let candidates = self.sort_out(items, is_first);
        if self.options.dry_run {
            self.look_only(&candidates).await
        } else if self.journal.is_some() {
            self.move_on(candidates, is_first).await
        } else {
            self.copy(candidates).await
        }
    }

    /// Those items that are to be moved.
    fn sort_out(&mut self, items: Vec<Item>, is_first: bool) -> Vec<Candidate> {
        let mut candidates = Vec::with_capacity(items.len());
        for item in items {
            let (digest, is_odd) = match classify(&item.key) {
                Key::Regular(digest) => (digest, false),
                Key::Odd(digest) => (digest, true),
                Key::Foreign => {
                    self.counts.skipped += u64::from(is_first);
                    continue;
                }
            };
            match &item.record {
                Ok(record) if self.is_expired(record) => self.counts.expired += u64::from(is_first),
                Ok(record) => {
                    let record = *record;
                    self.counts.clamped += u64::from(is_first && is_saturated(&item, &record));
                    candidates.push(Candidate { digest, is_odd, item, record });
                }
                Err(why) if is_first => {
                    self.counts.failed += 1;
                    self.progress.failed(&item.key, why);
                }
                Err(_) => {}
            }
        }
        candidates
    }

    pub(super) fn is_expired(&self, record: &Record) -> bool {
        let last = record.last_change();
        self.horizon.is_some_and(|horizon| last.is_some_and(|last| last < horizon))
    }

    /// When a record is to expire.
    fn expires(&self, record: &Record) -> Option<Timestamp> {
        let age = i64::try_from(self.options.cleanup_age?.as_secs()).unwrap_or(i64::MAX);
        record.last_change().map(|last| Timestamp::from_seconds(last.seconds().saturating_add(age)))
    }

    fn destination(&self) -> Result<Arc<dyn Bulk>, BulkError> {
        self.destination.clone().ok_or_else(|| BulkError("there is no destination".to_owned()))
    }

    async fn look_only(&mut self, candidates: &[Candidate]) -> Result<(), Failure> {
        if let Some(destination) = &self.destination {
            let keys = candidates.iter().map(|candidate| candidate.digest.to_hex().to_vec()).collect();
            let met = destination.read(keys).await?.iter().flatten().count();
            self.counts.met += met as u64;
            for candidate in candidates {
                self.counts.clamped += u64::from(is_clamped(destination.as_ref(), &candidate.record));
            }
        }
        self.counts.transferred += candidates.len() as u64;
        Ok(())
    }

    /// Stores records, whatever is there. Those under odd keys wait until all of their digest are known.
    async fn copy(&mut self, candidates: Vec<Candidate>) -> Result<(), Failure> {
        let destination = self.destination()?;
        let (odd, regular): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.is_odd);
        let odd: Vec<_> = odd
            .into_iter()
            .map(|candidate| (candidate.digest, candidate.item.key, candidate.record))
            .collect();
        block_in_place(|| self.spool.keep(&odd))?;
        let keys: Vec<Vec<u8>> = regular.iter().map(|candidate| candidate.item.key.clone()).collect();
        let same_engine = self.source.engine() == destination.engine();
        let put = |candidate: Candidate| Put {
            digest: candidate.digest,
            record: candidate.record,
            expires: self.expires(&candidate.record),
            held: same_engine.then_some(candidate.item.held),
        };
        let puts: Vec<Put> = regular.into_iter().map(put).collect();
        let clamped = puts.iter().filter(|put| is_clamped(destination.as_ref(), &put.record)).count();
        self.counts.clamped += clamped as u64;
        self.written().await?;
        let outcomes = tokio::spawn(async move { destination.store(puts).await });
        self.writing = Some(Writing { keys, outcomes });
        Ok(())
    }

    /// Waits for the batch that is being written.
    async fn written(&mut self) -> Result<(), Failure> {
        let Some(Writing { keys, outcomes }) = self.writing.take() else { return Ok(()) };
        let outcomes =
            outcomes.await.map_err(|error| BulkError(format!("the writing has died: {error}")))??;
        for (key, outcome) in keys.iter().zip(outcomes) {
            self.take(&[key], outcome);
        }
        Ok(())
    }

    /// Counts what became of some keys.
    fn take(&mut self, keys: &[&Vec<u8>], outcome: Outcome) {
        match outcome {
            Outcome::Done => self.counts.transferred += keys.len() as u64,
            Outcome::Changed => self.counts.left += keys.len() as u64,
            Outcome::Refused(why) => {
                self.counts.failed += keys.len() as u64;
                keys.iter().for_each(|key| self.progress.failed(key, &why));
            }
        }
    }

    /// Stores what waits in the spool, each digest's records as one.
    async fn write_spool(&mut self) -> Result<(), Failure> {
        let mut behind = None;
        loop {
            self.stop.check()?;
            let groups = block_in_place(|| self.spool.groups(behind, BATCH))?;
            let Some(last) = groups.last() else { return Ok(()) };
            behind = Some(last.digest);
            let destination = self.destination()?;
            let totals = totals(self.source.as_ref(), &groups).await?;
            let put = |(group, record): (&Group, &Option<Record>)| {
                let record = record.unwrap_or_default();
                Put { digest: group.digest, record, expires: self.expires(&record), held: None }
            };
            let puts: Vec<Put> = groups.iter().zip(&totals).map(put).collect();
            let clamped = puts.iter().filter(|put| is_clamped(destination.as_ref(), &put.record)).count();
            self.counts.clamped += clamped as u64;
            for (group, outcome) in groups.iter().zip(destination.store(puts).await?) {
                let keys: Vec<&Vec<u8>> = group.odd.iter().map(|(key, _)| key).collect();
                self.take(&keys, outcome);
            }
            self.progress.transferred(self.counts.transferred);
        }
    }

    /// Finds out what of the last batch of an interrupted run was done. Says whether there was such a run.
    async fn settle(&mut self) -> Result<bool, Failure> {
        let (Some(journal), Some(destination)) = (&self.journal, &self.destination) else { return Ok(false) };
        let is_rerun = !block_in_place(|| journal.is_empty())?;
        let doubts = block_in_place(|| journal.doubts())?;
        if doubts.is_empty() {
            return Ok(is_rerun);
        }
        let keys: Vec<Vec<u8>> = doubts.iter().map(|doubt| doubt.digest.to_hex().to_vec()).collect();
        // What a killed run has sent, a server may still be about to do.
        let mut items = destination.read(keys.clone()).await?;
        if destination.has_whole_seconds() {
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
        let done: Vec<Digest> = doubts
            .iter()
            .zip(&items)
            .filter(|(doubt, item)| {
                let now = item.as_ref().and_then(|item| item.record.as_ref().ok()).copied();
                was_added(doubt, &now.unwrap_or_default(), destination.as_ref())
            })
            .map(|(doubt, _)| doubt.digest)
            .collect();
        block_in_place(|| journal.settle(&done))?;
        Ok(true)
    }

    /// Moves records, of which nothing is ever counted twice.
    async fn move_on(&mut self, candidates: Vec<Candidate>, is_first: bool) -> Result<(), Failure> {
        let destination = self.destination()?;
        let mut steps = self.plan(candidates, destination.as_ref()).await?;
        let mut outcomes = self.carry_out(&steps, destination.as_ref()).await?;
        destination.sync().await?;
        if self.options.delete && self.options.verify == Verify::Afterwards {
            self.read_back(&steps, &mut outcomes, destination.as_ref()).await?;
        }
        let has_doubts = steps.iter().any(|step| matches!(step.verdict, Verdict::Add(..)));
        let mut moved = Vec::new();
        let mut to_delete = Vec::new();
        for (step, outcome) in steps.drain(..).zip(outcomes) {
            let is_put = !matches!(step.verdict, Verdict::Nothing);
            for (candidate, known) in step.members {
                match &outcome {
                    Outcome::Refused(why) => {
                        self.counts.failed += 1;
                        self.progress.failed(&candidate.item.key, why);
                        continue;
                    }
                    Outcome::Changed => {
                        // It changes all the time.
                        self.counts.left += u64::from(is_first);
                        continue;
                    }
                    Outcome::Done => {}
                }
                if is_put {
                    self.counts.transferred += u64::from(is_first || known.is_none());
                    let place = Place { digest: candidate.digest, key: candidate.item.key.clone() };
                    moved.push((place, Moved::with(known.as_ref(), &candidate.record)));
                } else {
                    self.counts.known += u64::from(is_first && self.round.is_rerun);
                }
                if self.options.delete {
                    // What is as it was in the round before has not changed since, whatever its time says.
                    let has_settled = !self.round.is_first && !is_put;
                    match self.is_young(&candidate.record) && !has_settled {
                        true => self.round.young += 1,
                        false => to_delete.push(candidate.item),
                    }
                }
            }
        }
        if let Some(journal) = &self.journal
            && (has_doubts || !moved.is_empty())
        {
            block_in_place(|| journal.finish(&moved))?;
        }
        let keys: Vec<Vec<u8>> = to_delete.iter().map(|item| item.key.clone()).collect();
        for (key, outcome) in keys.into_iter().zip(self.source.delete(to_delete).await?) {
            match outcome {
                Outcome::Done => self.counts.deleted += 1,
                Outcome::Changed => self.round.again.push(key),
                Outcome::Refused(why) => {
                    self.counts.failed += 1;
                    self.progress.failed(&key, &why);
                }
            }
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
    async fn plan(&self, candidates: Vec<Candidate>, destination: &dyn Bulk) -> Result<Vec<Step>, Failure> {
        let Some(journal) = &self.journal else { return Ok(Vec::new()) };
        // A scan may meet a key twice.
        let mut by_key: HashMap<Vec<u8>, Candidate> = HashMap::with_capacity(candidates.len());
        for candidate in candidates {
            by_key.insert(candidate.item.key.clone(), candidate);
        }
        let mut by_digest: BTreeMap<Digest, Vec<Candidate>> = BTreeMap::new();
        for (_, candidate) in by_key {
            by_digest.entry(candidate.digest).or_default().push(candidate);
        }
        let places: Vec<Place> = by_digest
            .values()
            .flatten()
            .map(|candidate| Place { digest: candidate.digest, key: candidate.item.key.clone() })
            .collect();
        let digests: Vec<Digest> = by_digest.keys().copied().collect();
        let mut known = block_in_place(|| journal.moved(&places))?.into_iter();
        let touched = match self.options.merge {
            true => vec![true; digests.len()],
            false => block_in_place(|| journal.touched(&digests))?,
        };
        // What is added to must be known.
        let wanted: Vec<Vec<u8>> = digests
            .iter()
            .zip(&touched)
            .filter(|(_, touched)| **touched)
            .map(|(digest, _)| digest.to_hex().to_vec())
            .collect();
        let mut found = destination.read(wanted).await?.into_iter();
        let steps = by_digest.into_values().zip(touched).map(|(members, is_touched)| {
            let members = members.into_iter().map(|member| (member, known.next().flatten())).collect();
            match is_touched {
                true => step(members, found.next().flatten(), destination),
                false => {
                    let verdict = Verdict::Put(sum(&members).unwrap_or_default());
                    Step { members, verdict }
                }
            }
        });
        Ok(steps.collect())
    }

    /// Does it; says what became of each step.
    async fn carry_out(&mut self, steps: &[Step], destination: &dyn Bulk) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = vec![Outcome::Done; steps.len()];
        let (mut puts, mut put_places) = (Vec::new(), Vec::new());
        let (mut additions, mut add_places) = (Vec::new(), Vec::new());
        let same_engine = self.source.engine() == destination.engine();
        for (at, step) in steps.iter().enumerate() {
            let Some((first, _)) = step.members.first() else { continue };
            let digest = first.digest;
            match &step.verdict {
                Verdict::Nothing => {}
                Verdict::Fail(why) => outcomes[at] = Outcome::Refused(why.clone()),
                Verdict::Put(record) => {
                    let alone = same_engine && step.members.len() == 1;
                    put_places.push(at);
                    puts.push(Put {
                        digest,
                        record: *record,
                        expires: self.expires(record),
                        held: alone.then(|| first.item.held.clone()),
                    });
                }
                Verdict::Add(record, seen) => {
                    add_places.push(at);
                    additions.push(self.addition(digest, *record, seen.clone()));
                }
            }
        }
        let sums = additions.iter().map(|addition| united(&there(addition), &addition.record));
        let all = puts.iter().map(|put| put.record).chain(sums);
        self.counts.clamped += all.filter(|record| is_clamped(destination, record)).count() as u64;
        if !puts.is_empty() {
            for (at, outcome) in put_places.into_iter().zip(destination.store(puts).await?) {
                outcomes[at] = outcome;
            }
        }
        for _ in 0..ATTEMPTS {
            if additions.is_empty() {
                break;
            }
            self.begin(steps, &add_places, &additions)?;
            let mut again = Vec::new();
            for (at, outcome) in add_places.drain(..).zip(destination.add(additions.clone()).await?) {
                if outcome == Outcome::Changed {
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
                *addition = self.addition(addition.digest, addition.record, seen);
            }
            add_places = again;
        }
        Ok(outcomes)
    }

    fn addition(&self, digest: Digest, record: Record, seen: Option<Item>) -> Addition {
        let addition = Addition { digest, record, seen, expires: None };
        let expires = self.expires(&united(&there(&addition), &record));
        Addition { expires, ..addition }
    }

    /// Takes note of what is about to be added.
    fn begin(&self, steps: &[Step], places: &[usize], additions: &[Addition]) -> Result<(), Failure> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let doubt = |addition: &Addition| {
            let (there, added) = (there(addition), &addition.record);
            Doubt {
                digest: addition.digest,
                before: (there.reports.count, there.whitelists.count),
                added: (added.reports.count, added.whitelists.count),
            }
        };
        let doubts: Vec<Doubt> = additions.iter().map(doubt).collect();
        let members = places.iter().flat_map(|at| &steps[*at].members);
        let under_way: Vec<(Place, Moved)> = members
            .map(|(candidate, known)| {
                let place = Place { digest: candidate.digest, key: candidate.item.key.clone() };
                (place, Moved::with(known.as_ref(), &candidate.record))
            })
            .collect();
        Ok(block_in_place(|| journal.begin(&doubts, &under_way))?)
    }

    /// Compares what has been written with what should have been.
    async fn read_back(
        &self,
        steps: &[Step],
        outcomes: &mut [Outcome],
        destination: &dyn Bulk,
    ) -> Result<(), Failure> {
        let written: Vec<usize> = (0..steps.len())
            .filter(|at| outcomes[*at] == Outcome::Done && !steps[*at].members.is_empty())
            .collect();
        let keys = written.iter().map(|at| steps[*at].members[0].0.digest.to_hex().to_vec()).collect();
        let expected = written.iter().map(|at| match &steps[*at].verdict {
            Verdict::Put(record) => *record,
            _ => sum_of_all(&steps[*at].members),
        });
        let expected = destination.read_back(expected.collect()).await?;
        for ((at, item), expected) in written.into_iter().zip(destination.read(keys).await?).zip(expected) {
            let differs = match &steps[at].verdict {
                Verdict::Put(_) => difference(&expected, item.as_ref()),
                _ => lacks(&expected, item.as_ref()),
            };
            if let Some(why) = differs {
                outcomes[at] = Outcome::Refused(format!("the destination has something else: {why}"));
            }
        }
        Ok(())
    }
}

/// Before which a last change is too long ago.
pub(super) fn horizon(options: &Options) -> Option<Timestamp> {
    let age = i64::try_from(options.cleanup_age?.as_micros()).unwrap_or(i64::MAX);
    Some(Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age)))
}

/// Whether a record does not fit into a database as it is.
fn is_clamped(destination: &dyn Bulk, record: &Record) -> bool {
    let clamped = destination.clamp(record);
    let differs = |one: &Tally, another: &Tally| {
        let seconds = |time: Option<Timestamp>| time.map(Timestamp::seconds);
        one.count != another.count
            || one.count != 0
                && (seconds(one.first) != seconds(another.first)
                    || seconds(one.last) != seconds(another.last))
    };
    differs(&record.reports, &clamped.reports) || differs(&record.whitelists, &clamped.whitelists)
}

/// Whether the source has a count that no database of ours can hold.
fn is_saturated(item: &Item, record: &Record) -> bool {
    const LIMIT: &[u8] = b"9223372036854775807";
    let full = [record.reports, record.whitelists].iter().filter(|tally| tally.count == i64::MAX).count();
    full > 0 && item.held.windows(LIMIT.len()).filter(|text| *text == LIMIT).count() < full
}

/// All records of each digest as one, with the one under its own key; none where there is nothing any more.
pub(super) async fn totals(source: &dyn Bulk, groups: &[Group]) -> Result<Vec<Option<Record>>, BulkError> {
    let keys: Vec<Vec<u8>> = groups.iter().map(|group| group.digest.to_hex().to_vec()).collect();
    let own = source.read(keys.clone()).await?;
    let total = |((group, key), own): ((&Group, &Vec<u8>), Option<Item>)| {
        // Some databases find one by the other's key.
        let own = own.filter(|item| item.key == *key).and_then(|item| item.record.ok());
        group.odd.iter().map(|(_, record)| *record).chain(own).reduce(|one, another| united(&one, &another))
    };
    Ok(groups.iter().zip(&keys).zip(own).map(total).collect())
}

/// What was found before an addition.
fn there(addition: &Addition) -> Record {
    let record = addition.seen.as_ref().and_then(|item| item.record.as_ref().ok());
    record.copied().unwrap_or_default()
}

/// What of some keys has not been moved yet.
fn sum(members: &[(Candidate, Option<Moved>)]) -> Option<Record> {
    let rest = |(candidate, known): &(Candidate, Option<Moved>)| match known {
        Some(moved) => moved.rest_of(&candidate.record),
        None => Some(candidate.record),
    };
    members.iter().filter_map(rest).reduce(|one, another| united(&one, &another))
}

fn sum_of_all(members: &[(Candidate, Option<Moved>)]) -> Record {
    let records = members.iter().map(|(candidate, _)| candidate.record);
    records.reduce(|one, another| united(&one, &another)).unwrap_or_default()
}

/// What is to be done for a digest to which something is added.
fn step(mut members: Vec<(Candidate, Option<Moved>)>, found: Option<Item>, destination: &dyn Bulk) -> Step {
    let verdict = match &found {
        // It has expired there, or somebody has begun anew; what was moved before is nowhere.
        None => {
            members.iter_mut().for_each(|(_, known)| *known = None);
            Verdict::Add(sum(&members).unwrap_or_default(), None)
        }
        Some(Item { record: Err(why), .. }) => Verdict::Fail(format!("in the destination: {why}")),
        Some(Item { record: Ok(there), .. }) => {
            let was_moved = members.iter().any(|(_, known)| known.is_some());
            let counts = members.iter().filter_map(|(_, known)| known.as_ref().map(Moved::counts));
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
                Verdict::Fail("the destination has less than was moved there before".to_owned())
            } else {
                match sum(&members) {
                    None => Verdict::Nothing,
                    Some(record) => Verdict::Add(record, found.clone()),
                }
            }
        }
    };
    Step { members, verdict }
}

/// Whether what was about to be added to a record has been. Counts only grow.
fn was_added(doubt: &Doubt, now: &Record, destination: &dyn Bulk) -> bool {
    let after = Record {
        reports: Tally { count: doubt.before.0.saturating_add(doubt.added.0), ..Tally::default() },
        whitelists: Tally { count: doubt.before.1.saturating_add(doubt.added.1), ..Tally::default() },
    };
    let after = destination.clamp(&after);
    let tallies = [
        (doubt.added.0, after.reports.count, now.reports.count),
        (doubt.added.1, after.whitelists.count, now.whitelists.count),
    ];
    let mut changed = tallies.iter().filter(|(added, ..)| *added != 0).peekable();
    // Without a count it does no harm to add it again.
    changed.peek().is_some()
        && changed.all(|(added, after, now)| if *added > 0 { now >= after } else { now <= after })
}
