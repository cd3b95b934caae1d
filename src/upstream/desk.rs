//! Decides which checks get a second opinion, and keeps those that wait for one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;

use super::cache::AnswerCache;
use super::{MAX_QUESTIONS, MAX_WAITING, UpstreamAnswer, UpstreamSettings};
use crate::stats::DeclineCause;

/// The time in which a burst may use up what `UpstreamRate` permits.
const BURST: Duration = Duration::from_secs(1);

/// The longest time for which an answer is kept that some servers had no part in: they may be back, and know more.
const INCOMPLETE_AGE: Duration = Duration::from_secs(10);

/// What a check that found nothing in the database gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consultation {
    /// These counts, from the cache. They may be 0.
    Known(RecordCounts),
    /// The answer to a question, which must be sent. The check is kept until then.
    Ask,
    /// The answer to a question under way. The check is kept until then.
    Join,
    /// The plain miss, at once.
    Declined(DeclineCause),
}

/// A question under way.
#[derive(Debug)]
struct AskedQuestion<W> {
    /// The checks that wait for the answer.
    checks: Vec<W>,
    /// Whether answers have been forgotten since it was asked: its own is not kept.
    is_outdated: bool,
}

/// The cache, the questions under way and the checks `W` that wait for their answers.
#[derive(Debug)]
pub(crate) struct Desk<W> {
    cache: AnswerCache,
    rate: QuestionRate,
    /// The questions under way. Hashed with random keys, because clients choose the digests.
    questions: HashMap<Digest, AskedQuestion<W>>,
    waiting: usize,
}

impl<W> Desk<W> {
    pub(crate) fn new(settings: &UpstreamSettings, now: Instant) -> Self {
        Self {
            cache: AnswerCache::new(settings.cache, settings.found_age, settings.miss_age),
            rate: QuestionRate::new(settings.rate, now),
            questions: HashMap::new(),
            waiting: 0,
        }
    }

    /// Decides on a check, and keeps it if it must wait. `is_available` is whether any server takes questions.
    pub(crate) fn consult(
        &mut self,
        digest: Digest,
        is_available: bool,
        now: Instant,
        check: impl FnOnce() -> W,
    ) -> Consultation {
        if let Some(counts) = self.cache.get(&digest, now) {
            return Consultation::Known(counts);
        }
        let has_room = self.waiting < MAX_WAITING;
        if let Some(question) = self.questions.get_mut(&digest) {
            if !has_room {
                return Consultation::Declined(DeclineCause::Busy);
            }
            question.checks.push(check());
            self.waiting += 1;
            return Consultation::Join;
        }
        if !is_available {
            return Consultation::Declined(DeclineCause::Unavailable);
        }
        if !has_room || self.questions.len() >= MAX_QUESTIONS {
            return Consultation::Declined(DeclineCause::Busy);
        }
        if !self.rate.take(now) {
            return Consultation::Declined(DeclineCause::Rate);
        }
        self.questions.insert(digest, AskedQuestion { checks: vec![check()], is_outdated: false });
        self.waiting += 1;
        Consultation::Ask
    }

    /// Takes an answer. Returns the checks that waited for it; an answer to no question under way is not kept.
    pub(crate) fn take(&mut self, answer: UpstreamAnswer, now: Instant) -> Vec<W> {
        let Some(question) = self.questions.remove(&answer.digest) else { return Vec::new() };
        self.waiting -= question.checks.len();
        if let Some(counts) = answer.counts
            && !question.is_outdated
        {
            let longest = if answer.is_complete { Duration::MAX } else { INCOMPLETE_AGE };
            self.cache.put(answer.digest, counts, longest, now);
        }
        question.checks
    }

    /// Gives all questions up. Returns the checks that waited for their answers.
    pub(crate) fn give_up(&mut self) -> Vec<W> {
        self.waiting = 0;
        self.questions.drain().flat_map(|(_, question)| question.checks).collect()
    }

    /// Forgets all answers, those to the questions under way included.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
        self.questions.values_mut().for_each(|question| question.is_outdated = true);
    }

    /// The number of answers in the cache.
    pub(crate) fn cached(&self) -> usize {
        self.cache.len()
    }

    /// The number of checks that wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}

/// Permits a number of questions per second, and bursts of as many.
#[derive(Debug)]
struct QuestionRate {
    /// The time between two questions of an even stream.
    interval: Duration,
    /// The time at which such a stream would send its next question.
    due: Instant,
}

impl QuestionRate {
    /// Permits `rate` questions per second, at least 1.
    fn new(rate: u32, now: Instant) -> Self {
        Self { interval: BURST / rate.max(1), due: now }
    }

    /// Whether a question is permitted now, which it then counts.
    fn take(&mut self, now: Instant) -> bool {
        let due = self.due.max(now) + self.interval;
        let is_permitted = due <= now + BURST;
        if is_permitted {
            self.due = due;
        }
        is_permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remotes::DirectorySource;

    const COUNTS: RecordCounts = RecordCounts { reports: 3, whitelists: 1 };

    fn digest(number: usize) -> Digest {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Digest::from_bytes(bytes)
    }

    fn desk(rate: u32, now: Instant) -> Desk<usize> {
        let settings = UpstreamSettings {
            source: DirectorySource::default(),
            timeout: Duration::from_secs(1),
            cache: 10,
            found_age: Duration::from_secs(60),
            miss_age: Duration::from_secs(5),
            rate,
        };
        Desk::new(&settings, now)
    }

    fn answer(number: usize, counts: Option<RecordCounts>) -> UpstreamAnswer {
        UpstreamAnswer { digest: digest(number), counts, is_complete: true }
    }

    #[test]
    fn incomplete_answer_is_kept_for_seconds_only() {
        let now = Instant::now();
        for (counts, age) in [(COUNTS, 10), (RecordCounts::default(), 5)] {
            let mut desk = desk(100, now);
            assert_eq!(desk.consult(digest(1), true, now, || 1), Consultation::Ask);
            let complete = answer(1, Some(counts));
            desk.take(UpstreamAnswer { is_complete: false, ..complete }, now);
            assert_eq!((desk.cached(), desk.waiting()), (1, 0));
            let fresh = now + Duration::from_secs(age) - Duration::from_nanos(1);
            assert_eq!(desk.consult(digest(1), true, fresh, || 1), Consultation::Known(counts));
            let stale = now + Duration::from_secs(age);
            assert_eq!(desk.consult(digest(1), true, stale, || 1), Consultation::Ask);
        }
    }

    #[test]
    fn one_question_is_under_way_for_each_digest_and_its_answer_is_kept() {
        let now = Instant::now();
        let mut desk = desk(100, now);
        assert_eq!(desk.consult(digest(1), true, now, || 10), Consultation::Ask);
        assert_eq!(desk.consult(digest(1), true, now, || 11), Consultation::Join);
        assert_eq!(desk.consult(digest(1), false, now, || 12), Consultation::Join, "asked before the outage");
        assert_eq!(desk.consult(digest(2), true, now, || 20), Consultation::Ask);
        assert_eq!((desk.waiting(), desk.cached()), (4, 0));
        assert_eq!(desk.take(answer(1, Some(COUNTS)), now), [10, 11, 12]);
        assert_eq!((desk.waiting(), desk.cached()), (1, 1));
        let never = || panic!("the check must not be kept");
        assert_eq!(desk.consult(digest(1), false, now, never), Consultation::Known(COUNTS));
        assert_eq!(desk.take(answer(1, Some(COUNTS)), now), [0; 0], "not under way any more");
        desk.forget();
        assert_eq!(desk.consult(digest(1), true, now, || 13), Consultation::Ask);
    }

    #[test]
    fn answer_to_an_earlier_question_is_not_kept_after_all_were_forgotten() {
        let now = Instant::now();
        let mut desk = desk(100, now);
        assert_eq!(desk.consult(digest(1), true, now, || 10), Consultation::Ask);
        desk.forget();
        assert_eq!(desk.consult(digest(1), true, now, || 11), Consultation::Join);
        assert_eq!(desk.take(answer(1, Some(COUNTS)), now), [10, 11]);
        assert_eq!((desk.waiting(), desk.cached()), (0, 0));
        assert_eq!(desk.consult(digest(1), true, now, || 12), Consultation::Ask);
        assert_eq!(desk.take(answer(1, Some(COUNTS)), now), [12]);
        assert_eq!(desk.cached(), 1);
    }

    #[test]
    fn missing_answer_is_not_kept_and_an_unasked_one_neither() {
        let now = Instant::now();
        let mut desk = desk(100, now);
        assert_eq!(desk.consult(digest(1), true, now, || 1), Consultation::Ask);
        assert_eq!(desk.take(answer(1, None), now), [1]);
        assert_eq!(desk.take(answer(2, Some(COUNTS)), now), [0; 0]);
        assert_eq!(desk.cached(), 0);
        assert_eq!(desk.consult(digest(1), true, now, || 1), Consultation::Ask);
    }

    #[test]
    fn questions_and_waiting_checks_are_bounded() {
        let now = Instant::now();
        let mut desk = desk(1_000_000, now);
        let busy = Consultation::Declined(DeclineCause::Busy);
        for number in 0..MAX_QUESTIONS {
            assert_eq!(desk.consult(digest(number), true, now, || number), Consultation::Ask);
        }
        assert_eq!(desk.consult(digest(MAX_QUESTIONS), true, now, || 0), busy);
        for number in MAX_QUESTIONS..MAX_WAITING {
            assert_eq!(desk.consult(digest(0), true, now, || number), Consultation::Join);
        }
        assert_eq!(desk.consult(digest(0), true, now, || 0), busy);
        desk.take(answer(1, None), now);
        assert_eq!(desk.consult(digest(1), true, now, || 0), Consultation::Ask);
        assert_eq!(desk.consult(digest(1), true, now, || 0), busy);
        assert_eq!((desk.give_up().len(), desk.waiting()), (MAX_WAITING, 0));
        assert_eq!(desk.consult(digest(1), true, now, || 0), Consultation::Ask);
    }

    #[test]
    fn rate_permits_bursts_of_a_second_and_no_more_in_the_long_run() {
        let start = Instant::now();
        let mut desk = desk(4, start);
        let mut ask = |number: usize, now| desk.consult(digest(number), true, now, || 0) == Consultation::Ask;
        let asked = |range: std::ops::Range<usize>, now, ask: &mut dyn FnMut(usize, Instant) -> bool| {
            range.filter(|number| ask(*number, now)).count()
        };
        assert_eq!(asked(0..10, start, &mut ask), 4);
        assert_eq!(asked(10..20, start + Duration::from_millis(500), &mut ask), 2);
        assert_eq!(asked(20..30, start + Duration::from_secs(60), &mut ask), 4);
        assert_eq!(
            desk.consult(digest(99), false, start, || 0),
            Consultation::Declined(DeclineCause::Unavailable)
        );
        let late = start + Duration::from_secs(60);
        assert_eq!(desk.consult(digest(99), true, late, || 0), Consultation::Declined(DeclineCause::Rate));
    }
}
