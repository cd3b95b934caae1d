//! What operators and the thread see of a server.

use std::time::Instant;

use pyzor_home::loggable::loggable_name;

use super::{AskedServer, ServerId, SocketId};
use crate::remotes::RemoteServer;
use crate::stats::UpstreamServerCounts;
use crate::upstream::lines::refusal;
use crate::upstream::{UpstreamServerStatus, UpstreamState};

impl AskedServer {
    pub(in crate::upstream) fn id(&self) -> ServerId {
        self.id
    }

    /// Whether all addresses of the server are those of this server itself, so that it can tell nothing new.
    pub(in crate::upstream) fn is_this_server(&self) -> bool {
        self.is_own
    }

    /// The server and the account.
    pub(in crate::upstream) fn remote(&self) -> &RemoteServer {
        &self.remote
    }

    /// Whether the socket is still in use.
    pub(in crate::upstream) fn uses(&self, socket: SocketId) -> bool {
        self.sockets.contains(socket)
    }

    /// Returns the counters, for operators.
    pub(in crate::upstream) fn counts(&self) -> &UpstreamServerCounts {
        &self.tally.counts
    }

    /// Returns the state, for operators.
    pub(in crate::upstream) fn status(&self, now: Instant) -> UpstreamServerStatus {
        let is_unavailable = self.state == UpstreamState::Unavailable;
        let user = loggable_name(self.remote.signer.user());
        let refused =
            || self.tally.last_refusal(now).map(|code| format!("last refused: {}", refusal(code, user)));
        // An outage goes on if pings alone are answered.
        let since = self.outage.filter(|_| is_unavailable).unwrap_or(self.since);
        UpstreamServerStatus {
            server: self.remote.to_string(),
            user: user.to_owned(),
            address: self.address.map(|address| address.to_string()),
            state: self.state,
            since_seconds: now.saturating_duration_since(since).as_secs(),
            reason: is_unavailable.then(|| self.reason.clone()).or_else(refused),
            in_flight: self.under_way.len() as u64,
            answered_last_minute: self.tally.answered_recently.sum(now),
            refused_last_minute: self.tally.refused_recently.sum(now),
            silent_last_minute: self.tally.silent_recently.sum(now),
        }
    }
}
