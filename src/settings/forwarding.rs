//! The options of forwarding.

use std::path::PathBuf;
use std::time::Duration;

use super::load::SettingsLoader;
use super::{Environment, Settings};
use crate::forward::ForwardSettings;

/// The options that have no effect unless `ForwardClientHomeDir` is set. `ForwardOrigin` has: a process that does not
/// forward recognizes the requests of the others on its database by it.
const DEPENDENT: [&str; 6] =
    ["ForwardOps", "ForwardDelay", "ForwardRetries", "ForwardQueue", "ForwardRate", "ForwardFrom"];

/// The operations that are forwarded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForwardedOps {
    reports: bool,
    whitelists: bool,
}

impl ForwardedOps {
    /// The names of all operations that can be forwarded.
    pub(super) const NAMES: [&str; 2] = ["report", "whitelist"];

    /// Returns the operations with these names.
    pub(super) fn named(names: &[&str]) -> Self {
        let [report, whitelist] = Self::NAMES;
        Self { reports: names.contains(&report), whitelists: names.contains(&whitelist) }
    }
}

/// The values of the options of forwarding, whether it is on or not.
#[derive(Debug, Default)]
pub(super) struct ForwardingOptions {
    /// The homedir of a client, absolute; none: forwarding is off.
    pub(super) client_homedir: Option<PathBuf>,
    pub(super) ops: ForwardedOps,
    /// In seconds.
    pub(super) delay: u64,
    pub(super) retries: u32,
    pub(super) queue: usize,
    pub(super) rate: u32,
}

impl Settings {
    /// Returns the settings of forwarding, if it is on.
    pub(super) fn forward_settings(&self, environment: &Environment) -> Option<ForwardSettings> {
        let options = &self.forwarding;
        Some(ForwardSettings {
            source: environment.directory_source(options.client_homedir.as_deref()?),
            reports: options.ops.reports,
            whitelists: options.ops.whitelists,
            delay: Duration::from_secs(options.delay),
            retries: options.retries,
            queue: options.queue,
            rate: options.rate,
            origin: self.forward_origin,
        })
    }
}

impl SettingsLoader<'_> {
    /// Notes options of forwarding that are set although it is off.
    pub(super) fn note_unused_forwarding(&mut self, settings: &Settings) {
        if settings.forwarding.client_homedir.is_none() {
            self.note_without_effect(&DEPENDENT, "ForwardClientHomeDir");
        }
    }
}
