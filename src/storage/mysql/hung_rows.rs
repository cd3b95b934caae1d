//! Tracks the rows that make statements hang, usually because another client holds a lock on them.
//!
//! Only privileged accounts can ask the server which row a statement waits for. So the rows of a statement that timed
//! out are separated from all others and retried in smaller and smaller statements, until single rows that hang are
//! found. Those are refused at once and retried once a second, until they are counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;

/// The time after which an unconfirmed suspicion is dropped.
const MEMORY: Duration = Duration::from_secs(10);
/// The time between two attempts to count a refused row.
const RETRY: Duration = Duration::from_secs(1);
/// The most digests that are tracked, more than a statement has rows.
const MOST: usize = 4096;
/// The factor by which the statements for rows of a statement that timed out shrink.
const NARROWING: usize = 16;
/// The number of timeouts in a row after which the whole table seems to be locked.
const BLOCKED: u32 = 3;

/// A digest, and the number to add to its count.
pub(super) type RowAmount = (Digest, u32);

/// The digests of statements that timed out.
#[derive(Debug, Default)]
pub(super) struct HungRows {
    known: HashMap<Digest, Suspicion>,
    /// Time at which a refused row was last tried. Each attempt may take until the time limit.
    tried: Option<Instant>,
    /// The number of statements in a row that timed out.
    in_a_row: u32,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Instant,
    /// The most rows of a statement with this row; 0 if the row hung on its own.
    together: usize,
}

/// The rows of a batch to try now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RowPlan {
    /// Rows without a suspicion.
    pub(super) together: Vec<RowAmount>,
    /// Suspected rows, which go last.
    pub(super) apart: Vec<RowAmount>,
    /// The most rows of a statement with suspected rows.
    pub(super) apart_at_a_time: usize,
}

impl HungRows {
    /// Suspects the rows of a statement that timed out.
    pub(super) fn blame(&mut self, digests: &[Digest], now: Instant) {
        self.known.retain(|_, suspicion| !suspicion.is_over(now));
        // Rows that are known to hang are no sign that the table is locked.
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

    /// Clears rows that have been counted.
    pub(super) fn clear(&mut self, rows: &[RowAmount]) {
        self.in_a_row = 0;
        if self.known.is_empty() {
            return;
        }
        for (digest, _) in rows {
            if self.known.remove(digest).is_some_and(|suspicion| suspicion.together == 0) {
                // The lock's holder may have released other rows as well: try them again.
                self.known.values_mut().for_each(|suspicion| suspicion.together = suspicion.together.max(1));
            }
        }
    }

    /// Chooses the rows to try now; `None` if the whole table seems to be locked.
    pub(super) fn plan(&mut self, mut rows: Vec<RowAmount>, now: Instant) -> Option<RowPlan> {
        let mut plan = RowPlan { apart_at_a_time: usize::MAX, ..RowPlan::default() };
        let is_due = self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= RETRY);
        if self.in_a_row >= BLOCKED && !rows.is_empty() {
            if !is_due {
                return None;
            }
            self.tried = Some(now);
            // One row is enough to find out, preferably one that is not suspected.
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
    fn rows_of_hung_statement_are_separated_until_counted() {
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
    fn row_that_hangs_on_its_own_is_tried_once_a_second() {
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
    fn table_that_seems_locked_is_tried_with_one_row_a_second() {
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
    fn number_of_tracked_digests_is_limited() {
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
