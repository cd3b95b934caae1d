//! Second opinions: asks other servers about digests that a check has not found in the database of this one.
//!
//! The server loop asks the [`Desk`], which answers from a cache, or decides that a question is worth sending. Questions
//! are sent from a thread of its own, to all servers at once. Their answers come back to the loop over a channel. Nothing
//! here can fail a check: without an answer it has the one of the database.

mod asked;
mod cache;
mod desk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lane;
mod lines;
mod questions;
mod report;
mod service;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;
use tokio::sync::mpsc;

pub(crate) use self::desk::{Consultation, Desk};
pub(crate) use self::report::{UpstreamServerStatus, UpstreamState, UpstreamStatus};
pub(crate) use self::service::Upstream;
use crate::remotes::DirectorySource;

/// The most questions under way.
const MAX_QUESTIONS: usize = 1024;
/// The most checks that wait for the answers of all questions.
const MAX_WAITING: usize = 8192;

/// The settings of second opinions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamSettings {
    /// The homedir of a client that names the servers.
    pub(crate) source: DirectorySource,
    /// The longest wait for an answer. The `Timeout` of the client's config file is not used.
    pub(crate) timeout: Duration,
    /// The most digests in the cache; 0 is no cache.
    pub(crate) cache: usize,
    /// The age at which the counts of a found digest are asked for again.
    pub(crate) found_age: Duration,
    /// The age at which a digest that was not found is asked for again.
    pub(crate) miss_age: Duration,
    /// The most questions per second.
    pub(crate) rate: u32,
}

/// What other servers have answered about a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamAnswer {
    pub(crate) digest: Digest,
    /// The largest of the counts; none if no server has answered in time.
    pub(crate) counts: Option<RecordCounts>,
    /// Whether every server has answered: another answer would not have larger counts.
    pub(crate) is_complete: bool,
}

/// Takes questions from the server loop.
pub(crate) trait QuestionSink: Send + Sync {
    /// Whether any server takes questions, as far as is known.
    fn is_available(&self) -> bool;

    /// Sends these questions, which are removed from the vector. Never waits. Each gets exactly one answer, at the latest
    /// when it has timed out.
    fn ask(&self, digests: &mut Vec<Digest>);
}

/// What the server loop must know of other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamNews {
    /// Answers to questions, in any order.
    Answers(Vec<UpstreamAnswer>),
    /// Other servers are asked from now on: earlier answers are void.
    ServersChanged,
}

/// News on their way to the server loop.
pub(crate) type UpstreamReceiver = mpsc::UnboundedReceiver<UpstreamNews>;

/// What the server loop needs for second opinions.
pub(crate) struct UpstreamParts {
    pub(crate) settings: UpstreamSettings,
    pub(crate) sink: Arc<dyn QuestionSink>,
    pub(crate) news: UpstreamReceiver,
}
