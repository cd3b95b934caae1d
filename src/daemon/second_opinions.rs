//! Starts second opinions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tracing::info;

use super::directories::{self, DirectoryWarnings, UPSTREAM};
use super::error::StartError;
use crate::remotes::RemoteDirectory;
use crate::upstream::{QuestionSink, Upstream, UpstreamParts, UpstreamSettings};

/// Everything that second opinions need to start.
pub(super) struct LoadedUpstream {
    settings: UpstreamSettings,
    directory: RemoteDirectory,
}

/// Loads the homedir of the client, and logs its warnings.
pub(super) fn load(
    settings: &UpstreamSettings,
    warnings: &mut DirectoryWarnings,
) -> Result<LoadedUpstream, StartError> {
    let directory = directories::load(UPSTREAM, &settings.source, warnings)?;
    Ok(LoadedUpstream { settings: settings.clone(), directory })
}

impl LoadedUpstream {
    /// The servers, as loaded.
    pub(super) fn directory(&self) -> &RemoteDirectory {
        &self.directory
    }

    /// Starts to ask. `listening` is the address of this server.
    pub(super) fn start(self, listening: SocketAddr) -> io::Result<(Arc<Upstream>, UpstreamParts)> {
        let Self { settings, directory } = self;
        info!(lifecycle = true, "Asking {} for second opinions", directory.describe());
        let (upstream, news) = Upstream::start(&settings, directory, listening)?;
        let sink = Arc::clone(&upstream) as Arc<dyn QuestionSink>;
        Ok((upstream, UpstreamParts { settings, sink, news }))
    }
}
