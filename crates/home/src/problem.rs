//! Problems of a configuration.

use std::fmt;

/// One problem of a configuration, displayed as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The source of the value: a file and line, or a flag.
    pub place: String,
    /// The option, unless the problem concerns no single one.
    pub option: Option<String>,
    /// The problem, and what to do about it.
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
