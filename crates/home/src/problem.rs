//! What is wrong with a configuration.

use std::fmt;

/// What is wrong with one setting: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The file and line, the flag, or whatever else has the value.
    pub place: String,
    /// The option, if it is about one.
    pub option: Option<String>,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(option) = &self.option {
            write!(f, "{option}: ")?;
        }
        f.write_str(&self.text)
    }
}
