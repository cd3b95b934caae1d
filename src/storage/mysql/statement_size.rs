//! How many rows a statement may have so that it ends soon.
//!
//! A statement takes some time whatever its rows (a disk that syncs, a long way), and some for each row. Only
//! the second part makes smaller statements quicker, so it is told from the first by statements of different
//! sizes: `rows` follows what the rows take, and a fixed cost is spent on as many rows as there are.

use std::time::{Duration, Instant};

/// Statements whose rows take longer are followed by smaller ones, and those whose rows take less by larger ones.
const SLOW: Duration = Duration::from_millis(200);
const QUICK: Duration = Duration::from_millis(50);
/// How long a statement of another size is compared with.
const MEMORY: Duration = Duration::from_secs(5);
/// How long no statement becomes as large as one that was given up.
const CAUTION: Duration = Duration::from_secs(1);
/// By how much the times of statements vary that have nothing to do with their rows.
const NOISE: f64 = 1.25;
/// Sizes up to powers of two, of which 1024 is the largest.
const SIZES: usize = 11;

/// How many rows a statement may have.
#[derive(Debug)]
pub(super) struct StatementSize {
    rows: usize,
    most: usize,
    /// The quickest lately of each size.
    quickest: [Option<StatementTime>; SIZES],
    /// How many rows the last statement had that was given up, and when.
    given_up: Option<(usize, Instant)>,
}

/// A statement that has ended.
#[derive(Clone, Copy, Debug)]
struct StatementTime {
    rows: usize,
    seconds: f64,
    at: Instant,
}

impl StatementSize {
    /// Begins with the most rows that there may be.
    pub(super) fn new(most: usize) -> Self {
        Self { rows: most, most, quickest: [None; SIZES], given_up: None }
    }

    /// How many rows the next statement may have, at least 1.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The least time that a statement took lately.
    pub(super) fn least(&self, now: Instant) -> Duration {
        let least = self.fresh(now).map(|sample| sample.seconds).reduce(f64::min);
        Duration::from_secs_f64(least.unwrap_or_default())
    }

    /// Takes note of how long a statement for so many rows took.
    pub(super) fn took(&mut self, rows: usize, taken: Duration, now: Instant) {
        let sample = StatementTime { rows: rows.max(1), seconds: taken.as_secs_f64(), at: now };
        let own = self.of_rows(sample);
        self.remember(sample);
        let (quick, slow) = (QUICK.as_secs_f64(), SLOW.as_secs_f64());
        match own {
            // Small ones tell little of large ones, and those that were begun before nothing of smaller ones.
            Some(own) if own > slow && rows <= self.rows && rows * 2 > self.rows => self.shrink(rows / 2),
            Some(own) if own <= quick => self.grow(rows, now),
            Some(_) => {}
            // Another size shows what it is that takes the time, and one row cannot be fewer.
            None if sample.seconds <= slow || rows == 1 => self.grow(rows, now),
            None if rows <= self.rows && rows * 2 > self.rows => self.shrink(rows / 2),
            None => {}
        }
    }

    /// Takes note that a statement for so many rows did not end in the time that it had.
    pub(super) fn gave_up(&mut self, rows: usize, now: Instant) {
        // One row that others have locked says nothing of others.
        if rows > self.rows || rows == 1 {
            return;
        }
        self.given_up = Some((rows, now));
        self.shrink(if rows * 2 > self.rows { rows / 4 } else { self.rows / 2 });
    }

    /// What the rows of a statement took beyond what it takes whatever its rows, in seconds; none if no other
    /// size is known.
    fn of_rows(&mut self, sample: StatementTime) -> Option<f64> {
        let mut least: Option<f64> = None;
        for slot in &mut self.quickest {
            let Some(other) = slot.filter(|other| other.is_fresh(sample.at)) else { continue };
            let (fewer, more) = match () {
                () if other.rows * 3 <= sample.rows * 2 => (other, sample),
                () if other.rows * 2 >= sample.rows * 3 => (sample, other),
                () => continue,
            };
            // Fewer rows do not take longer: the table was quicker then, or one had bad luck.
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

    /// Makes statements larger if one was full.
    fn grow(&mut self, rows: usize, now: Instant) {
        let larger = (self.rows * 2).min(self.most);
        let is_risky =
            |(rows, at): (usize, Instant)| larger >= rows && now.saturating_duration_since(at) < CAUTION;
        if rows >= self.rows && !self.given_up.is_some_and(is_risky) {
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

    /// A table that takes some time for each statement and some for each row.
    struct Simulated {
        statement_size: StatementSize,
        now: Instant,
        each: Duration,
        row: Duration,
        counted: usize,
        given_up: usize,
    }

    impl Simulated {
        fn new(each: Duration, row: Duration) -> Self {
            Self {
                statement_size: StatementSize::new(MOST),
                now: Instant::now(),
                each,
                row,
                counted: 0,
                given_up: 0,
            }
        }

        /// Runs a statement that takes so much longer than it must.
        fn run(&mut self, rows: usize, late: Duration) {
            let taken = self.each + self.row * u32::try_from(rows).unwrap() + late;
            self.now += taken.min(LIMIT);
            if taken < LIMIT {
                self.statement_size.took(rows, taken, self.now);
                self.counted += rows;
            } else {
                self.statement_size.gave_up(rows, self.now);
                self.given_up += 1;
            }
        }

        /// Counts so many rows.
        fn count(&mut self, mut rows: usize) {
            while rows > 0 {
                let part = self.statement_size.rows().min(rows);
                self.run(part, Duration::ZERO);
                rows -= part;
            }
        }

        /// Batches of these sizes for some seconds.
        fn serve(&mut self, batches: &[usize], seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            for batch in batches.iter().cycle() {
                if self.now >= end {
                    break;
                }
                self.count(*batch);
            }
        }

        /// Checks that so many rows are counted as there is time for, with none of them given up.
        fn assert_settled(&mut self, batches: &[usize], what: &str) {
            let (start, counted, given_up) = (self.now, self.counted, self.given_up);
            self.serve(batches, 15);
            let rate = (self.counted - counted) as f64 / (self.now - start).as_secs_f64();
            // Of statements whose rows take as long as those must that are made larger.
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
            let lost = self.given_up - given_up;
            assert_eq!(lost, 0, "{what}: given up; {each:?} each, {row:?} a row");
        }
    }

    #[test]
    fn throughput_comes_back_after_a_hiccup_whatever_statements_and_rows_take() {
        // Those that fill statements, leave remainders, are smaller, or small among others.
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
                        // Statements become twice as large each time.
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
    fn a_statement_of_one_slow_row_is_one_row() {
        let mut table = Simulated::new(Duration::from_millis(1), Duration::from_millis(400));
        table.serve(&[MOST], 30);
        assert!((1..=2).contains(&table.statement_size.rows()), "{}", table.statement_size.rows());
    }

    #[test]
    fn a_table_that_changes_is_followed() {
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
    fn one_row_that_takes_its_time_does_not_make_statements_smaller() {
        let (mut statement_size, now) = (StatementSize::new(MOST), Instant::now());
        statement_size.gave_up(1, now);
        statement_size.took(2, Duration::from_millis(600), now);
        assert_eq!(statement_size.rows(), MOST);
    }

    #[test]
    fn the_least_time_of_a_statement_is_that_of_the_quickest_lately() {
        let (mut statement_size, now) = (StatementSize::new(MOST), Instant::now());
        assert_eq!(statement_size.least(now), Duration::ZERO);
        statement_size.took(900, Duration::from_millis(300), now);
        statement_size.took(2, Duration::from_millis(400), now);
        assert_eq!(statement_size.least(now), Duration::from_millis(300));
        assert_eq!(statement_size.least(now + MEMORY), Duration::ZERO);
    }
}
