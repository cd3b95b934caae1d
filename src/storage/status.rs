//! The state of a database, as operators see it.

use serde::{Deserialize, Serialize};

/// The state of an engine and its database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// The availability of the database.
    pub availability: Availability,
    /// The time since the availability changed, in seconds; none if it never changed or the engine does not know.
    pub since_seconds: Option<u64>,
    /// The reason, if the database is not fully available: one line, without a password.
    pub reason: Option<String>,
    /// The number of records, exact or estimated; none if it is unknown.
    pub records: Option<u64>,
    /// The size of the database in bytes; none if it is unknown.
    pub bytes: Option<u64>,
    /// The time since everything was last durable, in seconds; none if the store itself takes care of that.
    pub synced_seconds_ago: Option<u64>,
    /// The last expiry; none before the first, or if the store expires records by itself.
    pub last_expiry: Option<ExpiryStatus>,
    /// The time until the next expiry, in seconds; none if there is none.
    pub next_expiry_in_seconds: Option<u64>,
    /// Other problems that an operator must know: one line each.
    pub problems: Vec<String>,
}

/// The availability of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Look-ups and changes work.
    #[default]
    Available,
    /// Look-ups work, changes are refused.
    ReadOnly,
    /// Some of the database's servers are unavailable.
    Partial,
    /// Nothing works.
    Unavailable,
}

/// The result of an expiry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpiryStatus {
    /// The time since its end, in seconds.
    pub seconds_ago: u64,
    /// The records that were removed.
    pub removed: u64,
    /// The records that were visited.
    pub visited: u64,
    /// The reason if it failed: one line.
    pub error: Option<String>,
}
