//! Starts and stops forwarding, and loads its servers again.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::directories::{self, DirectoryWarnings, FORWARDING};
use super::error::StartError;
use crate::forward::origin::{self, LoadedOrigin};
use crate::forward::{ForwardSettings, ForwardSink as _, Forwarder};
use crate::remotes::RemoteDirectory;
use crate::server::OwnOrigin;
use crate::settings::Settings;
use pyzor_wire::forward_id::ForwardOrigin;

/// The longest wait for replies to forwarded requests at a stop.
const REPLY_WAIT: Duration = Duration::from_secs(2);
/// The longest time that a stop takes, all in all.
const STOP_BOUND: Duration = Duration::from_secs(5);

/// The time between two log lines on what a server has not counted.
const SHORTFALL_PERIOD: Duration = Duration::from_secs(60);

/// Everything that forwarding needs to start.
pub(super) struct LoadedForwarding {
    settings: ForwardSettings,
    directory: RemoteDirectory,
    origin: ForwardOrigin,
}

/// Loads the homedir of the client and the origin of this server, and logs their warnings.
pub(super) fn load(
    settings: &ForwardSettings,
    homedir: &Path,
    warnings: &mut DirectoryWarnings,
) -> Result<LoadedForwarding, StartError> {
    let directory = directories::load(FORWARDING, &settings.source, warnings)?;
    let origin = match settings.origin {
        Some(origin) => origin,
        None => {
            let LoadedOrigin { origin, warning } = origin::load(homedir)?;
            warning.iter().for_each(|warning| warn!("{warning}"));
            origin
        }
    };
    Ok(LoadedForwarding { settings: settings.clone(), directory, origin })
}

impl LoadedForwarding {
    /// The servers, as loaded.
    pub(super) fn directory(&self) -> &RemoteDirectory {
        &self.directory
    }

    /// Starts forwarding. `listening` is the address of this server.
    pub(super) fn start(self, listening: SocketAddr) -> io::Result<Arc<Forwarder>> {
        let Self { settings, directory, origin } = self;
        let what = match (settings.reports, settings.whitelists) {
            (true, true) => "reports and whitelistings",
            (true, false) => "reports",
            (false, _) => "whitelistings",
        };
        info!(lifecycle = true, "Forwarding {what} to {}", directory.describe());
        Forwarder::start(settings, directory, origin, listening)
    }
}

/// Returns the origin of the requests that have been counted in the database of this server; none if that is unknown.
pub(super) fn own_origin(settings: &Settings, forwarder: Option<&Forwarder>) -> Option<OwnOrigin> {
    let origin = settings.forward_origin.or_else(|| forwarder.map(|forwarder| forwarder.origin()))?;
    Some(OwnOrigin { origin, is_configured: settings.forward_origin.is_some() })
}

/// Logs once a minute what other servers have not counted, until the future is dropped.
pub(super) async fn log_shortfalls(forwarder: Arc<Forwarder>) {
    loop {
        sleep(SHORTFALL_PERIOD).await;
        forwarder.report_shortfalls();
    }
}

/// Returns the time until which a stop waits for replies, if it began at `begun` and has taken until `now`.
pub(super) fn end_of_wait(begun: Instant, now: Instant) -> Instant {
    (now + REPLY_WAIT).min(begun + STOP_BOUND)
}
