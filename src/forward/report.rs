//! The state of forwarding, for operators.

use serde::{Deserialize, Serialize};

/// Whether a server takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ForwardState {
    /// Nothing has been heard of the server yet.
    #[default]
    Untried,
    /// The server replies.
    Available,
    /// The server replies again, and its queue is being emptied: one request at a time until it has replied to one.
    CatchingUp,
    /// The server does not reply, or cannot be reached: it is only pinged.
    Unavailable,
}

impl ForwardState {
    /// Whether the server takes requests, as far as is known.
    pub(crate) const fn is_up(self) -> bool {
        matches!(self, Self::Untried | Self::Available)
    }

    /// The name for operators.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Available => "available",
            Self::CatchingUp => "catching up",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The state of one server that requests are forwarded to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ForwardStatus {
    /// The server, as host and port of the servers file.
    pub(crate) server: String,
    /// The account, or `anonymous`.
    pub(crate) user: String,
    /// The address in use, if the name has been resolved.
    pub(crate) address: Option<String>,
    pub(crate) state: ForwardState,
    /// The age of the state, in seconds.
    pub(crate) since_seconds: u64,
    /// The reason why the server is unavailable, or for the last refusal if it refuses requests: one line.
    pub(crate) reason: Option<String>,
    /// Digests that wait to be sent.
    pub(crate) queued: u64,
    /// Requests that wait for a reply.
    pub(crate) in_flight: u64,
    /// Digests dropped in the last minute, because the queue was full.
    pub(crate) dropped_last_minute: u64,
    /// Digests refused in the last minute.
    pub(crate) refused_last_minute: u64,
    /// Digests accepted in the last minute.
    pub(crate) accepted_last_minute: u64,
    /// Digests in requests that were given up without a reply in the last minute.
    pub(crate) silent_last_minute: u64,
}
