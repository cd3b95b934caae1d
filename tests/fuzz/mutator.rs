//! Mutation of inputs by small changes, deterministic for a seed.

use std::path::Path;

/// Generates inputs from a corpus.
pub(crate) struct Mutator {
    state: u64,
    words: Vec<Vec<u8>>,
    corpus: Vec<Vec<u8>>,
    input: Vec<u8>,
}

/// The longest input in bytes: a little more than the longest datagram the server parses.
const LONGEST: usize = 9000;

impl Mutator {
    /// Returns a mutator of these named inputs, which also inserts the words of a libFuzzer dictionary.
    pub(crate) fn new(seed: u64, dictionary: &Path, corpus: Vec<(String, Vec<u8>)>) -> Self {
        let text = std::fs::read_to_string(dictionary).unwrap();
        let words: Vec<_> = text.lines().filter_map(word).collect();
        assert!(words.len() > 50, "the dictionary has {} words", words.len());
        let corpus = corpus.into_iter().map(|(_, bytes)| bytes).collect();
        Self { state: seed, words, corpus, input: Vec::new() }
    }

    /// Returns the next mutated input.
    pub(crate) fn next_input(&mut self) -> &[u8] {
        let start = self.below(self.corpus.len());
        self.input.clone_from(&self.corpus[start]);
        for _change in 0..=self.below(6) {
            self.change();
        }
        self.input.truncate(LONGEST);
        &self.input
    }

    /// Returns an input of the corpus unchanged.
    #[allow(dead_code, reason = "one of the two test binaries has no use for it")]
    pub(crate) fn next_unchanged(&mut self) -> &[u8] {
        let place = self.below(self.corpus.len());
        &self.corpus[place]
    }

    /// Replaces the corpus.
    #[allow(dead_code, reason = "one of the two test binaries has no use for it")]
    pub(crate) fn replace_corpus(&mut self, corpus: Vec<(String, Vec<u8>)>) {
        self.corpus = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    }

    fn change(&mut self) {
        let length = self.input.len();
        let at = self.below(length + 1);
        let end = at + self.below(length - at + 1).min(64);
        match self.below(10) {
            0 if at < length => self.input[at] ^= 1 << self.below(8),
            1 if at < length => self.input[at] = self.byte(),
            2 => {
                let byte = self.byte();
                self.input.insert(at, byte);
            }
            3 => drop(self.input.drain(at..end)),
            // Copies a part to the same or another position.
            4 => {
                let part = self.input[at..end].to_vec();
                let to = self.below(length + 1);
                self.input.splice(to..to, part);
            }
            5 => {
                let count = self.below(300);
                let byte = self.byte();
                self.input.splice(at..at, std::iter::repeat_n(byte, count));
            }
            6 => {
                let other = self.below(self.corpus.len());
                let from = self.below(self.corpus[other].len() + 1);
                self.input.truncate(at);
                self.input.extend_from_slice(&self.corpus[other][from..]);
            }
            7 => self.input.truncate(at),
            kind => {
                let word = self.below(self.words.len());
                let end = if kind == 8 { at } else { (at + self.words[word].len()).min(length) };
                self.input.splice(at..end, self.words[word].iter().copied());
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.random() as u8
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random() % limit as u64) as usize
    }

    /// Returns the next random number (SplitMix64).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Parses a dictionary line `"word"`, where `\xab` is a byte.
fn word(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut word = Vec::new();
    loop {
        rest = match rest {
            [] => return Some(word),
            [b'\\', b'x', high, low, behind @ ..] => {
                let digits = [*high, *low];
                word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                behind
            }
            [byte, behind @ ..] => {
                word.push(*byte);
                behind
            }
        };
    }
}
