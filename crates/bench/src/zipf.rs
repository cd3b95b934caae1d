//! Zipf's law: the digest of rank k comes k^S times as rarely as the first, as with real mail, of which few
//! messages make up most.

use super::choice::Random;

/// Chooses numbers by Zipf's law, in constant time and memory: the rejection-inversion of Hörmann and
/// Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions" (1996).
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    count: u64,
    exponent: f64,
    /// The integral of the hat, left of the first and right of the last rank.
    first: f64,
    last: f64,
    /// How close to its rank a point needs no second look.
    shortcut: f64,
}

impl Zipf {
    /// The law with this exponent, from 0 on, for so many ranks, at least one.
    pub(super) fn new(count: u64, exponent: f64) -> Self {
        let mut law = Self { count, exponent, first: 0.0, last: 0.0, shortcut: 0.0 };
        law.first = law.integral(1.5) - 1.0;
        law.last = law.integral(count as f64 + 0.5);
        law.shortcut = 2.0 - law.inverse(law.integral(2.5) - law.weight(2.0));
        law
    }

    /// A number below the count; 0 is the likeliest.
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

    /// The integral of the weight, up to here.
    fn integral(&self, rank: f64) -> f64 {
        let log = rank.ln();
        let power = (1.0 - self.exponent) * log;
        log * if power.abs() > 1e-8 { power.exp_m1() / power } else { 1.0 + power / 2.0 }
    }

    fn inverse(&self, area: f64) -> f64 {
        // Rounding may lead out of the range.
        let power = (area * (1.0 - self.exponent)).max(-1.0);
        (area * if power.abs() > 1e-8 { power.ln_1p() / power } else { 1.0 - power / 2.0 }).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
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
    fn the_last_of_very_many_ranks_can_come() {
        let law = Zipf::new(1_000_000_000, 0.5);
        let mut random = Random::new(1);
        let most = (0..10_000).map(|_| law.choose(&mut random)).max().unwrap();
        assert!((990_000_000..1_000_000_000).contains(&most), "{most}");
    }
}
