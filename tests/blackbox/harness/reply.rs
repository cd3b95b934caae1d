//! Parsed replies.

/// The bytes of a reply, with access to its headers.
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl Reply {
    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned)
    }

    /// Returns the number in a header; panics if there is none.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i64 {
        let value = self.header(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {}", self.0.escape_ascii()))
    }

    /// Returns `Code`.
    #[track_caller]
    pub(crate) fn code(&self) -> i64 {
        self.number("Code")
    }

    /// Returns `Count` and `WL-Count`.
    #[track_caller]
    pub(crate) fn counts(&self) -> (i64, i64) {
        (self.number("Count"), self.number("WL-Count"))
    }

    /// Returns `Entered`, `Updated`, `WL-Entered` and `WL-Updated`.
    #[track_caller]
    pub(crate) fn times(&self) -> [i64; 4] {
        ["Entered", "Updated", "WL-Entered", "WL-Updated"].map(|name| self.number(name))
    }
}
