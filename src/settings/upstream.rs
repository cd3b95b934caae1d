//! The options of second opinions.

use std::path::PathBuf;
use std::time::Duration;

use super::load::SettingsLoader;
use super::{Environment, Settings};
use crate::upstream::UpstreamSettings;

/// The options that have no effect unless `UpstreamHomeDir` is set.
const DEPENDENT: [&str; 5] =
    ["UpstreamTimeout", "UpstreamCache", "UpstreamCacheAge", "UpstreamMissAge", "UpstreamRate"];

/// The values of the options of second opinions, whether they are on or not.
#[derive(Debug, Default)]
pub(super) struct UpstreamOptions {
    /// The homedir of a client, absolute; none: second opinions are off.
    pub(super) client_homedir: Option<PathBuf>,
    /// In seconds.
    pub(super) timeout: u64,
    pub(super) cache: usize,
    /// In seconds.
    pub(super) found_age: u64,
    /// In seconds.
    pub(super) miss_age: u64,
    pub(super) rate: u32,
}

impl Settings {
    /// Returns the settings of second opinions, if they are on.
    pub(super) fn upstream_settings(&self, environment: &Environment) -> Option<UpstreamSettings> {
        let options = &self.upstream_options;
        Some(UpstreamSettings {
            source: environment.directory_source(options.client_homedir.as_deref()?),
            timeout: Duration::from_secs(options.timeout),
            cache: options.cache,
            found_age: Duration::from_secs(options.found_age),
            miss_age: Duration::from_secs(options.miss_age),
            rate: options.rate,
        })
    }
}

impl SettingsLoader<'_> {
    /// Notes options of second opinions that are set although these are off.
    pub(super) fn note_unused_upstream(&mut self, settings: &Settings) {
        if settings.upstream_options.client_homedir.is_none() {
            self.note_without_effect(&DEPENDENT, "UpstreamHomeDir");
        }
    }
}
