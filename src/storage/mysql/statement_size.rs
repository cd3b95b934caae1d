//! Adapts the number of rows per statement, so that a statement ends in time.
//!
//! A statement has a fixed cost (a disk sync, the network) and a cost per row. Only the second makes smaller statements
//! quicker. The two are separated by comparing statements of different sizes: the size follows the cost of the rows
//! alone, because a high fixed cost is best spread over many rows.

use std::time::{Duration, Instant};

/// Time for the rows of a statement above which statements become smaller.
const SLOW: Duration = Duration::from_millis(200);
/// Time for the rows of a statement below which statements become larger.
const QUICK: Duration = Duration::from_millis(50);
/// The time for which a statement is compared with others.
const MEMORY: Duration = Duration::from_secs(5);
/// The time for which statements stay smaller than one that timed out.
const CAUTION: Duration = Duration::from_secs(1);
/// The ratio between times of equal statements that is still considered noise.
const NOISE: f64 = 1.25;
/// The number of size classes: powers of two up to 1024 rows.
const SIZES: usize = 11;

/// The most rows of the next statement, and the statements from which it was derived.
#[derive(Debug)]
pub(super) struct StatementSize {
    rows: usize,
    most: usize,
    /// The quickest recent statement of each size class.
    quickest: [Option<StatementTime>; SIZES],
    /// The rows of the last statement that timed out, and the time of the timeout.
    timed_out: Option<(usize, Instant)>,
}

/// A finished statement.
#[derive(Clone, Copy, Debug)]
struct StatementTime {
    rows: usize,
    seconds: f64,
    at: Instant,
}

impl StatementSize {
    /// Starts with `most`, which is also the upper limit.
    pub(super) fn new(most: usize) -> Self {
        Self { rows: most, most, quickest: [None; SIZES], timed_out: None }
    }

    /// The most rows of the next statement, at least 1.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The shortest time that a statement has taken recently; 0 if there was none.
    pub(super) fn least(&self, now: Instant) -> Duration {
        let least = self.fresh(now).map(|sample| sample.seconds).reduce(f64::min);
        Duration::from_secs_f64(least.unwrap_or_default())
    }

    /// Records how long a statement took, and adapts the size.
    pub(super) fn took(&mut self, rows: usize, taken: Duration, now: Instant) {
        let sample = StatementTime { rows: rows.max(1), seconds: taken.as_secs_f64(), at: now };
        let own = self.row_cost(sample);
        self.remember(sample);
        let (quick, slow) = (QUICK.as_secs_f64(), SLOW.as_secs_f64());
        match own {
            // Only statements of nearly the present size count: smaller ones are no measure, larger ones are outdated.
            Some(own) if own > slow && rows <= self.rows && rows * 2 > self.rows => self.shrink(rows / 2),
            Some(own) if own <= quick => self.grow(rows, now),
            Some(_) => {}
            // Nothing to compare with yet: try another size. One row cannot become fewer.
            None if sample.seconds <= slow || rows == 1 => self.grow(rows, now),
            None if rows <= self.rows && rows * 2 > self.rows => self.shrink(rows / 2),
            None => {}
        }
    }

    /// Records that a statement timed out, and reduces the size.
    pub(super) fn timed_out(&mut self, rows: usize, now: Instant) {
        // A single row is probably locked, which is no sign that other rows are slow.
        if rows > self.rows || rows == 1 {
            return;
        }
        self.timed_out = Some((rows, now));
        self.shrink(if rows * 2 > self.rows { rows / 4 } else { self.rows / 2 });
    }

    /// Estimates the time of a statement without its fixed cost, in seconds; `None` without a recent statement of
    /// another size.
    fn row_cost(&mut self, sample: StatementTime) -> Option<f64> {
        let mut least: Option<f64> = None;
        for slot in &mut self.quickest {
            let Some(other) = slot.filter(|other| other.is_fresh(sample.at)) else { continue };
            let (fewer, more) = match () {
                () if other.rows * 3 <= sample.rows * 2 => (other, sample),
                () if other.rows * 2 >= sample.rows * 3 => (sample, other),
                () => continue,
            };
            // Fewer rows cannot take longer: that statement was unlucky, or the table has become quicker since.
            if fewer.seconds > more.seconds * NOISE + QUICK.as_secs_f64() {
                *slot = None;
                continue;
            }
            let each = (more.seconds - fewer.seconds).max(0.0) / (more.rows - fewer.rows) as f64;
            let own = (each * sample.rows as f64).min(sample.seconds);
            least = Some(least.map_or(own, |least| least.min(own)));
        }
        least
    }

    fn remember(&mut self, sample: StatementTime) {
        let slot = &mut self.quickest[(sample.rows.ilog2() as usize).min(SIZES - 1)];
        let is_quicker =
            |other: StatementTime| other.is_fresh(sample.at) && other.seconds * 1.1 < sample.seconds;
        if !slot.is_some_and(is_quicker) {
            *slot = Some(sample);
        }
    }

    fn fresh(&self, now: Instant) -> impl Iterator<Item = &StatementTime> {
        self.quickest.iter().flatten().filter(move |sample| sample.is_fresh(now))
    }

    fn shrink(&mut self, rows: usize) {
        self.rows = rows.clamp(1, self.most);
    }

    /// Doubles the size if the statement was full, unless that would reach the size of a recent timeout.
    fn grow(&mut self, rows: usize, now: Instant) {
        let larger = (self.rows * 2).min(self.most);
        let is_risky =
            |(rows, at): (usize, Instant)| larger >= rows && now.saturating_duration_since(at) < CAUTION;
        if rows >= self.rows && !self.timed_out.is_some_and(is_risky) {
            self.rows = larger;
        }
    }
}

impl StatementTime {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::remote::presence::LIMIT;

    const MOST: usize = 1000;

    /// A table with a cost per statement (`each`) and a cost per row.
    struct Simulated {
        statement_size: StatementSize,
        now: Instant,
        each: Duration,
        row: Duration,
        counted: usize,
        timed_out: usize,
    }

    impl Simulated {
        fn new(each: Duration, row: Duration) -> Self {
            Self {
                statement_size: StatementSize::new(MOST),
                now: Instant::now(),
                each,
                row,
                counted: 0,
                timed_out: 0,
            }
        }

        /// Runs a statement that takes `late` longer than its cost.
        fn run(&mut self, rows: usize, late: Duration) {
            let taken = self.each + self.row * u32::try_from(rows).unwrap() + late;
            self.now += taken.min(LIMIT);
            if taken < LIMIT {
                self.statement_size.took(rows, taken, self.now);
                self.counted += rows;
            } else {
                self.statement_size.timed_out(rows, self.now);
                self.timed_out += 1;
            }
        }

        /// Counts rows by as many statements as necessary.
        fn count(&mut self, mut rows: usize) {
            while rows > 0 {
                let part = self.statement_size.rows().min(rows);
                self.run(part, Duration::ZERO);
                rows -= part;
            }
        }

        /// Serves batches of these sizes in turn for some seconds.
        fn serve(&mut self, batches: &[usize], seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            for batch in batches.iter().cycle() {
                if self.now >= end {
                    break;
                }
                self.count(*batch);
            }
        }

        /// Checks that throughput is near the possible maximum and that no statement times out.
        fn assert_settled(&mut self, batches: &[usize], what: &str) {
            let (start, counted, timed_out) = (self.now, self.counted, self.timed_out);
            self.serve(batches, 15);
            let rate = (self.counted - counted) as f64 / (self.now - start).as_secs_f64();
            // The size at which the rows take QUICK, up to which statements must grow.
            let rows = (QUICK.as_secs_f64() / self.row.as_secs_f64()).clamp(1.0, MOST as f64);
            let statements =
                |rows: f64| batches.iter().map(|batch| (*batch as f64 / rows).ceil()).sum::<f64>();
            let all = batches.iter().sum::<usize>() as f64;
            let best = all / (statements(rows) * self.each.as_secs_f64() + all * self.row.as_secs_f64());
            let (each, row) = (self.each, self.row);
            assert!(
                rate > best * 0.7,
                "{what}: {rate:.0} of {best:.0} a second; {each:?} each, {row:?} a row"
            );
            let lost = self.timed_out - timed_out;
            assert_eq!(lost, 0, "{what}: timed out; {each:?} each, {row:?} a row");
        }
    }

    #[test]
    fn throughput_recovers_after_a_hiccup_at_every_cost() {
        // Batches that fill statements, leave remainders, are smaller, or are mixed.
        let offers: [&[usize]; 4] = [&[MOST], &[MOST, 1003, 2], &[700], &[MOST, 2, 30, 1, MOST]];
        let hiccups: [&[u64]; 6] =
            [&[700], &[900], &[900, 900], &[900, 900, 900, 900], &[120; 8], &[380, 500]];
        for each in [0, 1, 20, 45, 55, 80, 120, 190, 210, 300, 400, 500] {
            for row in [10, 30, 100, 300, 1000, 3000, 5000] {
                for offer in offers {
                    for hiccup in hiccups {
                        let (each, row) = (Duration::from_millis(each), Duration::from_micros(row));
                        let mut table = Simulated::new(each, row);
                        table.serve(offer, 20);
                        let before = table.statement_size.rows();
                        for late in hiccup {
                            let rows = table.statement_size.rows();
                            table.run(rows, Duration::from_millis(*late));
                        }
                        // Statements double with each step.
                        table.serve(offer, 10);
                        table.assert_settled(
                            offer,
                            &format!("{hiccup:?} amid {offer:?}, {before} rows before"),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn slow_rows_shrink_statements_to_one_row() {
        let mut table = Simulated::new(Duration::from_millis(1), Duration::from_millis(400));
        table.serve(&[MOST], 30);
        assert!((1..=2).contains(&table.statement_size.rows()), "{}", table.statement_size.rows());
    }

    #[test]
    fn size_follows_changes_of_the_table() {
        let mut table = Simulated::new(Duration::from_millis(1), Duration::from_micros(10));
        let changes =
            [(1, 4000), (500, 4000), (500, 10), (1, 1000), (80, 5000), (80, 10), (300, 100), (0, 10)];
        for (each, row) in changes {
            (table.each, table.row) = (Duration::from_millis(each), Duration::from_micros(row));
            table.serve(&[MOST, 1003], 20);
            table.assert_settled(&[MOST, 1003], "after a change");
        }
    }

    #[test]
    fn one_slow_row_does_not_shrink_statements() {
        let (mut statement_size, now) = (StatementSize::new(MOST), Instant::now());
        statement_size.timed_out(1, now);
        statement_size.took(2, Duration::from_millis(600), now);
        assert_eq!(statement_size.rows(), MOST);
    }

    #[test]
    fn least_time_is_that_of_the_quickest_recent_statement() {
        let (mut statement_size, now) = (StatementSize::new(MOST), Instant::now());
        assert_eq!(statement_size.least(now), Duration::ZERO);
        statement_size.took(900, Duration::from_millis(300), now);
        statement_size.took(2, Duration::from_millis(400), now);
        assert_eq!(statement_size.least(now), Duration::from_millis(300));
        assert_eq!(statement_size.least(now + MEMORY), Duration::ZERO);
    }
}
