//! Bytes as choices. When there are none left, every choice is the first one.

/// What is left of the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FuzzInput<'a>(&'a [u8]);

impl<'a> FuzzInput<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// One of two.
    pub(crate) fn flip(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of these, of which there is at least one.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// At most so many bytes.
    pub(crate) fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number; small ones and those at the edges come as often as others.
    pub(crate) fn number(&mut self) -> i64 {
        const EDGES: [i64; 16] = [
            0,
            1,
            -1,
            2,
            10,
            i64::MAX,
            i64::MIN,
            i64::MAX - 1,
            i32::MAX as i64,
            i32::MAX as i64 + 1,
            i32::MIN as i64,
            u32::MAX as i64,
            1_795_343_270,
            253_402_300_799,
            -62_135_596_800,
            -377_705_116_800,
        ];
        match self.byte() {
            choice @ 0..128 => EDGES[usize::from(choice) % EDGES.len()],
            128..192 => i64::from(self.byte() as i8),
            _ => {
                let mut bytes = [0; 8];
                let taken = self.take(8);
                bytes[..taken.len()].copy_from_slice(taken);
                i64::from_le_bytes(bytes)
            }
        }
    }

    /// The bytes up to the next of this one, which is left out.
    pub(crate) fn until(&mut self, separator: u8) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == separator);
        let part = &self.0[..end.unwrap_or(self.0.len())];
        self.0 = end.map_or(&[], |end| &self.0[end + 1..]);
        part
    }

    /// The bytes up to the next of this one as text, with what is not UTF-8 replaced.
    pub(crate) fn text_until(&mut self, separator: u8) -> String {
        String::from_utf8_lossy(self.until(separator)).into_owned()
    }
}
