//! Zipf's law: the digest of rank k is k^S times as rare as the first. Real mail is similar: few messages make up most
//! of it.

use super::choice::Random;

/// Chooses numbers by Zipf's law in constant time and memory. The algorithm is from Hörmann and Derflinger,
/// "Rejection-inversion to generate variates from monotone discrete distributions" (1996).
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    count: u64,
    exponent: f64,
    /// The integral of the hat function at the lower end of the first rank.
    first: f64,
    /// The integral of the hat function at the upper end of the last rank.
    last: f64,
    /// The distance between a point and its rank within which the rank is accepted without another test.
    shortcut: f64,
}

impl Zipf {
    /// Creates the law for `count` ranks, at least 1. The exponent must not be negative.
    pub(super) fn new(count: u64, exponent: f64) -> Self {
        let mut law = Self { count, exponent, first: 0.0, last: 0.0, shortcut: 0.0 };
        law.first = law.integral(1.5) - 1.0;
        law.last = law.integral(count as f64 + 0.5);
        law.shortcut = 2.0 - law.inverse(law.integral(2.5) - law.weight(2.0));
        law
    }

    /// Chooses a number below the count; 0 is the most frequent one.
    pub(super) fn choose(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.last + random.unit() * (self.first - self.last);
            let point = self.inverse(area);
            let rank = (point + 0.5).floor().clamp(1.0, self.count as f64);
            if rank - point <= self.shortcut || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn weight(&self, rank: f64) -> f64 {
        (-self.exponent * rank.ln()).exp()
    }

    /// The integral of the weight up to `rank`.
    fn integral(&self, rank: f64) -> f64 {
        let log = rank.ln();
        let power = (1.0 - self.exponent) * log;
        log * if power.abs() > 1e-8 { power.exp_m1() / power } else { 1.0 + power / 2.0 }
    }

    fn inverse(&self, area: f64) -> f64 {
        // Rounding may leave the domain of the logarithm.
        let power = (area * (1.0 - self.exponent)).max(-1.0);
        (area * if power.abs() > 1e-8 { power.ln_1p() / power } else { 1.0 - power / 2.0 }).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_of_ranks_follow_the_law() {
        const DRAWS: u64 = 400_000;
        for (count, exponent) in
            [(10, 0.0), (10, 0.5), (100, 0.99), (50, 1.0), (1000, 1.3), (7, 3.0), (1, 1.0)]
        {
            let law = Zipf::new(count, exponent);
            let mut random = Random::new(7);
            let mut drawn = vec![0u64; usize::try_from(count).unwrap()];
            for _ in 0..DRAWS {
                drawn[usize::try_from(law.choose(&mut random)).unwrap()] += 1;
            }
            let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
            let sum: f64 = (0..drawn.len()).map(weight).sum();
            for (rank, times) in drawn.into_iter().enumerate() {
                let expected = DRAWS as f64 * weight(rank) / sum;
                let deviation = (times as f64 - expected).abs() / expected.sqrt();
                assert!(
                    deviation < 5.0,
                    "{exponent}: rank {rank} of {count} came {times} times, not {expected}"
                );
            }
        }
    }

    #[test]
    fn last_of_very_many_ranks_can_be_chosen() {
        let law = Zipf::new(1_000_000_000, 0.5);
        let mut random = Random::new(1);
        let most = (0..10_000).map(|_| law.choose(&mut random)).max().unwrap();
        assert!((990_000_000..1_000_000_000).contains(&most), "{most}");
    }
}
