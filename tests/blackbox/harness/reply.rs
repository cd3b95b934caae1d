//! Replies.

/// A reply as a client reads it.
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl Reply {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned)
    }

    /// The number in a header; panics when there is none.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i64 {
        let value = self.header(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {}", self.0.escape_ascii()))
    }

    /// `Code`.
    #[track_caller]
    pub(crate) fn code(&self) -> i64 {
        self.number("Code")
    }

    /// `Count` and `WL-Count`.
    #[track_caller]
    pub(crate) fn counts(&self) -> (i64, i64) {
        (self.number("Count"), self.number("WL-Count"))
    }

    /// `Entered`, `Updated`, `WL-Entered` and `WL-Updated`.
    #[track_caller]
    pub(crate) fn times(&self) -> [i64; 4] {
        ["Entered", "Updated", "WL-Entered", "WL-Updated"].map(|name| self.number(name))
    }
}
