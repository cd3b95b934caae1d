//! The state of second opinions, for operators.

use serde::{Deserialize, Serialize};

/// Whether a server takes questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpstreamState {
    /// Nothing has been heard of the server yet.
    #[default]
    Untried,
    /// The server answers in time.
    Available,
    /// The server replies to pings again, and is asked one question at a time until it has answered one in time.
    OnTrial,
    /// The server does not answer in time, or cannot be reached: it is only pinged.
    Unavailable,
}

impl UpstreamState {
    /// Whether the server takes questions, as far as is known.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, Self::Untried | Self::Available)
    }

    /// The name for operators.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Available => "available",
            Self::OnTrial => "on trial",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The state of one server that is asked for second opinions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpstreamServerStatus {
    /// The server, as host and port of the servers file.
    pub(crate) server: String,
    /// The account, or `anonymous`.
    pub(crate) user: String,
    /// The address in use, if the name has been resolved.
    pub(crate) address: Option<String>,
    pub(crate) state: UpstreamState,
    /// The age of the state, in seconds.
    pub(crate) since_seconds: u64,
    /// The reason why the server is unavailable, or for the last refusal if it refuses questions: one line.
    pub(crate) reason: Option<String>,
    /// Questions that wait for its answer.
    pub(crate) in_flight: u64,
    /// Questions answered in time in the last minute.
    pub(crate) answered_last_minute: u64,
    /// Questions refused in the last minute.
    pub(crate) refused_last_minute: u64,
    /// Questions not answered in time in the last minute.
    pub(crate) silent_last_minute: u64,
}

/// The state of second opinions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpstreamStatus {
    /// The servers, in the order of the servers file.
    pub(crate) servers: Vec<UpstreamServerStatus>,
    /// Answers in the cache.
    pub(crate) cached: u64,
    /// Checks that wait for an answer.
    pub(crate) waiting: u64,
}
