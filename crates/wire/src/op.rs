//! The operations of the protocol.

use std::fmt;

/// An operation that this server implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Checks that the server is running.
    Ping,
    /// Answers a check with fixed, impossible counts, for tests of a client's configuration.
    Pong,
    /// Reads both counts of a digest.
    Check,
    /// Reads both counts and all times of a digest.
    Info,
    /// Counts digests as spam.
    Report,
    /// Counts digests as not spam.
    Whitelist,
}

impl Op {
    /// All operations, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Ping, Self::Pong, Self::Check, Self::Info, Self::Report, Self::Whitelist];

    /// Returns the operation with this name, which is case-sensitive.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name().as_bytes() == name)
    }

    /// The name in the protocol and in access files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Check => "check",
            Self::Info => "info",
            Self::Report => "report",
            Self::Whitelist => "whitelist",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
