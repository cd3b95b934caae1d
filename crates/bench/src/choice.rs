//! Choosing operations and digests at random. The same seed gives the same choices.

use sha1::{Digest as _, Sha1};

use super::zipf::Zipf;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;

/// A fast random number generator of sufficient quality (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 up to, but not including, 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// The relative frequencies of the operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mix {
    /// In the order of [`Op::ALL`], with the sum 1.
    shares: [f64; Op::ALL.len()],
}

impl Mix {
    /// Creates the mix with these weights. Returns `None` if one is negative or not finite, or if all are 0.
    pub(super) fn new(weights: impl IntoIterator<Item = (Op, f64)>) -> Option<Self> {
        let mut shares = [0.0; Op::ALL.len()];
        for (op, weight) in weights {
            shares[op_index(op)] = Some(weight).filter(|weight| weight.is_finite() && *weight >= 0.0)?;
        }
        let sum: f64 = shares.iter().sum();
        (sum > 0.0 && sum.is_finite()).then(|| Self { shares: shares.map(|share| share / sum) })
    }

    /// Returns the operations of the mix with their shares.
    pub(super) fn shares(&self) -> impl Iterator<Item = (Op, f64)> {
        Op::ALL.into_iter().zip(self.shares).filter(|(_, share)| *share > 0.0)
    }

    fn choose(&self, random: &mut Random) -> Op {
        let mut rest = random.unit();
        let mut last = Op::Ping;
        for (op, share) in self.shares() {
            last = op;
            rest -= share;
            if rest < 0.0 {
                break;
            }
        }
        // Because of rounding, the loop may end without a break: then it is the last operation.
        last
    }
}

/// Returns the index of an operation in [`Op::ALL`].
pub(super) fn op_index(op: Op) -> usize {
    op as usize
}

/// The digests of a run. They depend only on the seed, so that two runs with the same seed use the same digests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digests {
    seed: u64,
}

impl Digests {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns the digest with this number, one of those that are reported.
    pub(super) fn known(self, number: u64) -> Digest {
        self.of(b"known", number)
    }

    /// Returns the digest with this number, one of those that are never reported.
    fn never_reported(self, number: u64) -> Digest {
        self.of(b"never", number)
    }

    // Computing a digest is faster than looking up one of a million digests in memory.
    fn of(self, kind: &[u8; 5], number: u64) -> Digest {
        let mut text = [0; 21];
        text[..5].copy_from_slice(kind);
        text[5..13].copy_from_slice(&self.seed.to_le_bytes());
        text[13..].copy_from_slice(&number.to_le_bytes());
        Digest::from_bytes(Sha1::digest(text).into())
    }
}

/// The source of requests.
#[derive(Debug)]
pub(super) enum RequestSource {
    /// An endless sequence of random requests.
    Chosen(Box<Choice>),
    /// A report of each digest; `next` is the number of the next one.
    Each { digests: Digests, next: u64, count: u64 },
}

/// The random choice of requests.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) random: Random,
    pub(super) mix: Mix,
    pub(super) digests: Digests,
    pub(super) count: u64,
    /// The distribution of the digests; `None`: uniform.
    pub(super) zipf: Option<Zipf>,
    /// The share of checks and infos about known digests.
    pub(super) hit_ratio: f64,
}

impl RequestSource {
    /// Returns the next request; `None` after the last one.
    pub(super) fn next(&mut self) -> Option<(Op, Digest)> {
        match self {
            Self::Chosen(choice) => Some(choice.next()),
            Self::Each { next, count, .. } if next == count => None,
            Self::Each { digests, next, .. } => {
                let digest = digests.known(*next);
                *next += 1;
                Some((Op::Report, digest))
            }
        }
    }
}

impl Choice {
    fn next(&mut self) -> (Op, Digest) {
        let op = self.mix.choose(&mut self.random);
        let may_miss = matches!(op, Op::Check | Op::Info) && self.hit_ratio < 1.0;
        if may_miss && self.random.unit() >= self.hit_ratio {
            return (op, self.digests.never_reported(self.random.next()));
        }
        let number = match &self.zipf {
            Some(zipf) => zipf.choose(&mut self.random),
            None => self.random.below(self.count),
        };
        (op, self.digests.known(number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn choice(mix: Mix, zipf: Option<f64>, hit_ratio: f64) -> RequestSource {
        let (random, digests, count) = (Random::new(3), Digests::new(3), 20);
        let zipf = zipf.map(|exponent| Zipf::new(count, exponent));
        RequestSource::Chosen(Box::new(Choice { random, mix, digests, count, zipf, hit_ratio }))
    }

    fn known() -> BTreeMap<Digest, u64> {
        (0..20).map(|number| (Digests::new(3).known(number), number)).collect()
    }

    #[test]
    fn operations_are_chosen_by_their_weights() {
        let mix = Mix::new([(Op::Check, 9.0), (Op::Report, 0.5), (Op::Ping, 0.5), (Op::Info, 0.0)]).unwrap();
        assert_eq!(
            mix.shares().collect::<Vec<_>>(),
            [(Op::Ping, 0.05), (Op::Check, 0.9), (Op::Report, 0.05)]
        );
        let mut source = choice(mix, None, 1.0);
        let mut drawn = [0; Op::ALL.len()];
        for _ in 0..100_000 {
            drawn[op_index(source.next().unwrap().0)] += 1;
        }
        for (op, share) in mix.shares() {
            let deviation = f64::from(drawn[op_index(op)]) - share * 100_000.0;
            assert!(deviation.abs() < 500.0, "{op}: {drawn:?}");
        }
        assert_eq!(drawn.iter().sum::<i32>(), 100_000);
        for op in [Op::Pong, Op::Info, Op::Whitelist] {
            assert_eq!(drawn[op_index(op)], 0);
        }
    }

    #[test]
    fn invalid_weights_are_refused() {
        for weights in
            [&[(Op::Check, 0.0)][..], &[], &[(Op::Check, 1.0), (Op::Ping, -1.0)], &[(Op::Ping, f64::NAN)]]
        {
            assert_eq!(Mix::new(weights.iter().copied()), None, "{weights:?}");
        }
    }

    #[test]
    fn every_digest_is_chosen_and_misses_are_other_digests() {
        let mix = Mix::new([(Op::Check, 1.0), (Op::Report, 1.0)]).unwrap();
        let known = known();
        for zipf in [None, Some(1.0)] {
            let mut source = choice(mix, zipf, 0.25);
            let (mut times, mut checks, mut misses) = ([0u32; 20], 0u32, 0u32);
            let mut missed = std::collections::BTreeSet::new();
            for _ in 0..20_000 {
                let (op, digest) = source.next().unwrap();
                checks += u32::from(op == Op::Check);
                match known.get(&digest) {
                    Some(number) => times[*number as usize] += 1,
                    None => {
                        assert_eq!(op, Op::Check);
                        assert!(missed.insert(digest));
                        misses += 1;
                    }
                }
            }
            assert!((0.72..0.78).contains(&(f64::from(misses) / f64::from(checks))), "{misses} of {checks}");
            // 12,500 hits of 20 digests; the first of twenty ranks comes 3.6 times as often as on average.
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            match zipf {
                None => assert!(*least > 500 && *most < 750, "{times:?}"),
                Some(_) => assert!(*least > 100 && times[0] == *most && *most > 3200, "{times:?}"),
            }
        }
    }

    #[test]
    fn same_seed_gives_the_same_choices() {
        let mix = Mix::new([(Op::Check, 1.0), (Op::Info, 2.0)]).unwrap();
        let draw = || {
            let mut source = choice(mix, Some(0.5), 0.5);
            std::iter::from_fn(move || source.next()).take(100).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        // Must not change: databases may have these digests from earlier runs.
        assert_eq!(Digests::new(1).known(0).to_string(), "c5581c85e1876bc646a238999c0b3548d58847d3");
        assert_ne!(Digests::new(2).known(0), Digests::new(1).known(0));
    }

    #[test]
    fn each_digest_is_reported_once() {
        let mut source = RequestSource::Each { digests: Digests::new(3), next: 0, count: 20 };
        let drawn: Vec<_> = std::iter::from_fn(|| source.next()).collect();
        assert!(drawn.iter().all(|(op, _)| *op == Op::Report));
        assert_eq!(
            drawn.iter().filter_map(|(_, digest)| known().remove(digest)).collect::<Vec<_>>(),
            (0..20).collect::<Vec<_>>()
        );
    }
}
