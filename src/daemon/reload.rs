//! Reloads that signals and operators ask for.

use tokio::sync::oneshot;

use crate::control::reply::ReloadReport;

/// The extent of a reload, the smaller one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReloadRequest {
    Access,
    AccessAndLogs,
}

impl ReloadRequest {
    /// The log line at the start of the reload.
    pub(super) const fn announcement(self) -> &'static str {
        match self {
            Self::Access => "Reloading configuration.",
            Self::AccessAndLogs => "Reopening log files and reloading configuration.",
        }
    }
}

/// The changes that a reload has made, or the reason why it failed.
pub(super) type ReloadResult = Result<ReloadReport, String>;

/// A reload that must be done, with the operators who wait for its result.
pub(super) struct PendingReload {
    pub(super) request: ReloadRequest,
    pub(super) waiting: Vec<oneshot::Sender<ReloadResult>>,
}

impl From<ReloadRequest> for PendingReload {
    fn from(request: ReloadRequest) -> Self {
        Self { request, waiting: Vec::new() }
    }
}

impl PendingReload {
    /// Returns one reload that does the work of both.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.waiting.extend(other.waiting);
        Self { request: self.request.max(other.request), waiting: self.waiting }
    }

    /// Gives the result to all who wait.
    pub(super) fn answer(&mut self, result: &ReloadResult) {
        for waiting in self.waiting.drain(..) {
            // The operator may have disconnected.
            let _ = waiting.send(result.clone());
        }
    }
}
