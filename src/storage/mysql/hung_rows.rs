//! The rows that keep statements from ending.
//!
//! The server cannot be asked without special rights which row of a statement keeps it waiting. So all rows
//! of one that was given up go apart from others, in smaller statements each time, down to the row that hangs
//! by itself. That one is refused at once and tried once a second, until it is counted again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;

/// How long a suspicion lasts that is not confirmed.
const MEMORY: Duration = Duration::from_secs(10);
/// How often what is refused is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How many digests are remembered; a statement has no more rows.
const MOST: usize = 4096;
/// By how much the statements shrink that rows of one that was given up are in.
const NARROWING: usize = 16;
/// After so many statements in a row that were given up, the whole table seems to be locked.
const BLOCKED: u32 = 3;

/// A digest, and by how much it is to be raised.
pub(super) type RowAmount = (Digest, u32);

/// What is known of digests that statements were given up for.
#[derive(Debug, Default)]
pub(super) struct HungRows {
    known: HashMap<Digest, Suspicion>,
    /// When something that is refused was tried last; each trial may take as long as it may.
    tried: Option<Instant>,
    /// How many statements in a row were given up.
    in_a_row: u32,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Instant,
    /// How many rows a statement with it may have; 0 of one that hung by itself.
    together: usize,
}

/// The rows of a batch that are to be tried.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RowPlan {
    /// Those of which nothing bad is known.
    pub(super) together: Vec<RowAmount>,
    /// Those that go after all others, and how many at a time.
    pub(super) apart: Vec<RowAmount>,
    pub(super) apart_at_a_time: usize,
}

impl HungRows {
    /// Takes note of the rows of a statement that was given up.
    pub(super) fn blame(&mut self, digests: &[Digest], now: Instant) {
        self.known.retain(|_, suspicion| !suspicion.is_over(now));
        // What one row that is known to hang does says nothing of the table.
        if digests.iter().any(|digest| !self.known.contains_key(digest)) {
            self.in_a_row += 1;
        }
        let together = if digests.len() == 1 { 0 } else { (digests.len() / NARROWING).max(1) };
        for digest in digests {
            if self.known.len() < MOST || self.known.contains_key(digest) {
                self.known.insert(*digest, Suspicion { since: now, together });
            }
        }
    }

    /// Takes note that rows have been counted.
    pub(super) fn clear(&mut self, rows: &[RowAmount]) {
        self.in_a_row = 0;
        if self.known.is_empty() {
            return;
        }
        for (digest, _) in rows {
            if self.known.remove(digest).is_some_and(|suspicion| suspicion.together == 0) {
                // Who has let this one go may have let others go as well.
                self.known.values_mut().for_each(|suspicion| suspicion.together = suspicion.together.max(1));
            }
        }
    }

    /// Which of these rows to try, and how; none when the whole table seems to be locked.
    pub(super) fn plan(&mut self, mut rows: Vec<RowAmount>, now: Instant) -> Option<RowPlan> {
        let mut plan = RowPlan { apart_at_a_time: usize::MAX, ..RowPlan::default() };
        let is_due = self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= RETRY);
        if self.in_a_row >= BLOCKED && !rows.is_empty() {
            if !is_due {
                return None;
            }
            self.tried = Some(now);
            // One trial is enough, and one row is.
            let at = rows.iter().position(|(digest, _)| !self.known.contains_key(digest));
            plan.together.push(rows.swap_remove(at.unwrap_or_default()));
            return Some(plan);
        }
        if self.known.is_empty() {
            plan.together = rows;
            return Some(plan);
        }
        for row in rows {
            let Some(suspicion) = self.known.get_mut(&row.0) else {
                plan.together.push(row);
                continue;
            };
            if suspicion.is_over(now) {
                self.known.remove(&row.0);
                plan.together.push(row);
            } else if suspicion.together > 0 {
                plan.apart_at_a_time = plan.apart_at_a_time.min(suspicion.together);
                plan.apart.push(row);
            } else if is_due && now.saturating_duration_since(suspicion.since) >= RETRY {
                suspicion.since = now;
                self.tried = Some(now);
                plan.apart_at_a_time = 1;
                plan.apart.push(row);
            }
        }
        Some(plan)
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

    fn amounts(count: u8) -> Vec<RowAmount> {
        (1..=count).map(|number| (Digest::from_bytes([number; 20]), 1)).collect()
    }

    fn digests(rows: &[RowAmount]) -> Vec<Digest> {
        rows.iter().map(|(digest, _)| *digest).collect()
    }

    #[test]
    fn rows_of_a_statement_that_hung_go_apart_until_they_are_counted() {
        let rows = amounts(40);
        let mut hung_rows = HungRows::default();
        let now = Instant::now();
        hung_rows.blame(&digests(&rows[..32]), now);
        let plan = hung_rows.plan(rows.clone(), now).unwrap();
        assert_eq!(
            (plan.apart_at_a_time, &plan.together[..], &plan.apart[..]),
            (2, &rows[32..], &rows[..32])
        );
        hung_rows.clear(&rows[1..]);
        hung_rows.blame(&digests(&rows[..2]), now);
        assert_eq!(hung_rows.plan(rows.clone(), now).unwrap().apart_at_a_time, 1);
        assert_eq!(hung_rows.plan(rows.clone(), now + MEMORY).unwrap().together, rows);
        assert!(hung_rows.known.is_empty());
    }

    #[test]
    fn a_row_that_hangs_by_itself_is_tried_once_a_second() {
        let rows = amounts(1);
        let mut hung_rows = HungRows::default();
        let now = Instant::now();
        hung_rows.blame(&digests(&rows), now);
        let mut is_tried = |at| hung_rows.plan(rows.clone(), at).unwrap().apart.len() == 1;
        assert_eq!([now, now + RETRY, now + RETRY].map(&mut is_tried), [false, true, false]);
        hung_rows.clear(&rows);
        assert_eq!(hung_rows.plan(rows.clone(), now + RETRY).unwrap().together, rows);
    }

    #[test]
    fn a_table_that_seems_locked_is_tried_with_one_row_a_second() {
        let rows = amounts(10);
        let mut hung_rows = HungRows::default();
        let now = Instant::now();
        for row in &rows[..3] {
            hung_rows.blame(&[row.0], now);
        }
        assert_eq!(hung_rows.plan(rows.clone(), now).unwrap().together, rows[3..4]);
        assert_eq!(hung_rows.plan(rows.clone(), now), None);
        assert_eq!(hung_rows.plan(Vec::new(), now).unwrap().together, []);
        hung_rows.clear(&rows[3..4]);
        assert_eq!(hung_rows.plan(rows.clone(), now).unwrap().together, rows[3..]);
    }

    #[test]
    fn there_is_a_limit_to_what_is_remembered() {
        let mut hung_rows = HungRows::default();
        let digests: Vec<Digest> = (0..MOST as u64 + 10)
            .map(|number| {
                let mut bytes = [0; 20];
                bytes[..8].copy_from_slice(&number.to_be_bytes());
                Digest::from_bytes(bytes)
            })
            .collect();
        hung_rows.blame(&digests, Instant::now());
        assert_eq!(hung_rows.known.len(), MOST);
    }
}
