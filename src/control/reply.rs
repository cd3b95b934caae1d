//! Replies of the control socket.

use serde::{Deserialize, Serialize};

use crate::forward::ForwardStatus;
use crate::stats::StatsReport;
use crate::storage::EngineStatus;
use crate::upstream::UpstreamStatus;

/// A reply to an operator: one JSON object with one field, named after the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ControlReply {
    /// The state of the server.
    Status(Box<StatusReport>),
    /// The counters since the start.
    Stats(Box<StatsReport>),
    /// The result of a reload that succeeded.
    Reloaded(ReloadReport),
    /// The request failed, or is not a request: one line that says why.
    Error(String),
    /// The server cannot answer now, or not this peer: one line that says why.
    Unavailable(String),
}

/// The health of a server, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Health {
    /// Everything works.
    #[default]
    Well,
    /// The server answers, but an operator should look at the problems.
    Degraded,
    /// The server cannot answer requests that need the database.
    Critical,
}

/// The state of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) health: Health,
    /// The problems, worst first: one line each. Empty if the health is good.
    pub(crate) problems: Vec<String>,
    pub(crate) version: String,
    /// The kind of build, the target and the compiler.
    pub(crate) build: String,
    /// The process id.
    pub(crate) pid: u32,
    /// The UDP address of the server.
    pub(crate) address: String,
    /// The start of the service: UTC, as in RFC 3339.
    pub(crate) started: String,
    pub(crate) uptime_seconds: u64,
    /// The user that the server runs as.
    pub(crate) user: String,
    /// The line of the log on confinement.
    pub(crate) confinement: String,
    /// The name of the engine.
    pub(crate) engine: String,
    /// The engine and its database, without a password.
    pub(crate) database: String,
    pub(crate) storage: EngineStatus,
    /// The number of accounts.
    pub(crate) accounts: usize,
    /// The last time when accounts and access rules were loaded: UTC, as in RFC 3339.
    pub(crate) loaded: String,
    /// Replies since the start.
    pub(crate) replies: u64,
    /// Replies per second in the last ten seconds.
    pub(crate) requests_per_second: f64,
    /// Dropped datagrams and replies since the start.
    pub(crate) drops: u64,
    /// Requests and replies dropped in the last minute for lack of capacity: full buffers, or a slow database.
    pub(crate) lost_last_minute: u64,
    /// Replies in the last minute.
    pub(crate) replies_last_minute: u64,
    /// Batches that panicked in the engine since the start.
    pub(crate) engine_panics: u64,
    /// The servers that reports and whitelistings are forwarded to, in the order of the servers file.
    pub(crate) forwarding: Vec<ForwardStatus>,
    /// The servers that are asked for second opinions; none if there are none.
    pub(crate) upstream: Option<UpstreamStatus>,
}

/// The result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadReport {
    /// What changed: one line each. Empty if nothing changed.
    pub(crate) changes: Vec<String>,
    /// Warnings about the files: one line each.
    pub(crate) warnings: Vec<String>,
}
