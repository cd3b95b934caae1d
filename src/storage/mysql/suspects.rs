//! Digests whose rows somebody else holds locked, so that those beside them in a batch need not wait.
//!
//! Which row of a statement keeps it waiting cannot be asked without special rights. So all of them are
//! suspect, and go one by one for a while; one that keeps a statement of its own waiting is refused at
//! once and tried once a second, until it is counted again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::digest::Digest;

/// How long a suspicion lasts that is not confirmed.
const MEMORY: Duration = Duration::from_secs(10);
/// How often a locked row is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How many digests are remembered; a statement has no more rows.
const MOST: usize = 4096;

/// What is known of digests that may be locked.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    known: HashMap<Digest, Suspicion>,
    /// When a locked row was tried last; while many are locked, each trial may take as long as it may.
    tried: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Instant,
    is_confirmed: bool,
}

/// How a digest's row is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// With all others.
    Together,
    /// By itself, after all others.
    Alone,
    /// Not at all, for now.
    Refused,
}

impl Suspects {
    /// Takes note of the rows of a statement that did not finish; says whether that is news.
    pub(super) fn blame(&mut self, digests: &[Digest], now: Instant) -> bool {
        self.known.retain(|_, suspicion| !suspicion.is_over(now));
        let is_confirmed = digests.len() == 1;
        let is_news = digests.iter().any(|digest| !self.known.contains_key(digest));
        for digest in digests {
            if self.known.len() < MOST || self.known.contains_key(digest) {
                self.known.insert(*digest, Suspicion { since: now, is_confirmed });
            }
        }
        is_news
    }

    /// Takes note that a digest has been counted.
    pub(super) fn clear(&mut self, digest: &Digest) {
        if self.known.remove(digest).is_some_and(|suspicion| suspicion.is_confirmed) {
            // Who has let this one go may have let others go as well.
            self.known.values_mut().for_each(|suspicion| suspicion.is_confirmed = false);
        }
    }

    /// Whether nobody is suspect.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What to do with a digest.
    pub(super) fn treatment(&mut self, digest: &Digest, now: Instant) -> Treatment {
        let is_due = self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= RETRY);
        match self.known.get_mut(digest) {
            None => Treatment::Together,
            Some(suspicion) if suspicion.is_over(now) => {
                self.known.remove(digest);
                Treatment::Together
            }
            Some(Suspicion { is_confirmed: false, .. }) => Treatment::Alone,
            Some(suspicion) if is_due && now.saturating_duration_since(suspicion.since) >= RETRY => {
                // One trial is enough, however many batches ask.
                suspicion.since = now;
                self.tried = Some(now);
                Treatment::Alone
            }
            Some(_) => Treatment::Refused,
        }
    }
}

impl Suspicion {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_statement_that_hung_go_alone_until_they_are_counted() {
        let (one, two) = (Digest::from_bytes([1; 20]), Digest::from_bytes([2; 20]));
        let mut suspects = Suspects::default();
        let now = Instant::now();
        assert_eq!(suspects.treatment(&one, now), Treatment::Together);
        suspects.blame(&[one, two], now);
        assert_eq!(suspects.treatment(&one, now), Treatment::Alone);
        suspects.clear(&one);
        assert_eq!(suspects.treatment(&one, now), Treatment::Together);
        assert_eq!(suspects.treatment(&two, now + MEMORY), Treatment::Together);
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_locked_row_is_tried_once_a_second() {
        let digest = Digest::from_bytes([1; 20]);
        let mut suspects = Suspects::default();
        let now = Instant::now();
        suspects.blame(&[digest], now);
        assert_eq!(suspects.treatment(&digest, now), Treatment::Refused);
        assert_eq!(suspects.treatment(&digest, now + RETRY), Treatment::Alone);
        assert_eq!(suspects.treatment(&digest, now + RETRY), Treatment::Refused);
        suspects.clear(&digest);
        assert_eq!(suspects.treatment(&digest, now + RETRY), Treatment::Together);
    }

    #[test]
    fn there_is_a_limit_to_what_is_remembered() {
        let mut suspects = Suspects::default();
        let digests: Vec<Digest> = (0..MOST as u64 + 10)
            .map(|number| {
                let mut bytes = [0; 20];
                bytes[..8].copy_from_slice(&number.to_be_bytes());
                Digest::from_bytes(bytes)
            })
            .collect();
        suspects.blame(&digests, Instant::now());
        assert_eq!(suspects.known.len(), MOST);
    }
}
