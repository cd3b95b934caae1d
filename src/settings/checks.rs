//! Checks of several options together. They run after all options were stored: an option with a bad value has its
//! default, except for `Engine`, which is empty.

use super::load::SettingsLoader;
use super::option::OptionEffect;
use super::table::OPTIONS;
use super::value::{COMMENT_ADVICE, has_comment};
use super::{MetricsAddress, Settings};
use crate::os::local_socket::check_path as check_socket_path;
use crate::os::privileges::Identity;
use crate::storage;

impl SettingsLoader<'_> {
    pub(super) fn check(&mut self, settings: &Settings) {
        self.warn_of_comment_in_database(settings);
        self.check_database_of_missing_engine(settings);
        self.check_concurrency(settings);
        self.check_identity(settings);
        self.check_supported(settings);
        self.check_shared_port(settings);
        self.check_operator_sockets(settings);
        self.note_visible_password(settings);
        self.note_unused_forwarding(settings);
        self.note_unused_upstream(settings);
        self.report_options_without_effect();
    }

    /// Warns of a comment after the name of the database file: it is a part of the name, and the server would start
    /// with an empty database.
    fn warn_of_comment_in_database(&mut self, settings: &Settings) {
        let given = self.given.get("DigestDB").filter(|given| given.in_file && has_comment(&given.text));
        if let Some(given) = given
            && is_file(settings)
        {
            // The text is not shown: if the Engine line is missing, it may hold another engine's password.
            self.warnings.push(format!("{}: DigestDB: the file name {COMMENT_ADVICE}", given.place));
        }
    }

    /// Refuses the database of another engine as the name of a new file: it may hold a password, which would then be in
    /// the log and in the name of the file.
    fn check_database_of_missing_engine(&mut self, settings: &Settings) {
        let dsn = settings.digest_db.as_str();
        let is_of_server = dsn.contains("://") || dsn.split(',').count() >= 4;
        if is_file(settings) && is_of_server && !settings.digest_db_path.exists() {
            let place = self.place_of("DigestDB");
            self.problem(
                place,
                Some("DigestDB"),
                "it has the form of another engine's database, and Engine is gdbm: set Engine to redis or mysql",
            );
        }
    }

    /// Refuses only those combinations that the Python server refuses.
    fn check_concurrency(&mut self, settings: &Settings) {
        if settings.threads && settings.processes {
            let place = self.place_of("Processes");
            self.problem(place, None, "You cannot use both processes and threads at the same time");
        }
        if settings.pre_fork == 1 || settings.pre_fork < 0 {
            let place = self.place_of("PreFork");
            self.problem(place, None, "Pre-fork value cannot be lower than 2.");
        }
    }

    fn check_identity(&mut self, settings: &Settings) {
        match (settings.user.as_str(), settings.group.as_str()) {
            ("", "") => {}
            ("", _) => {
                let place = self.place_of("Group");
                self.problem(place, Some("Group"), "User is not set: set User as well, or remove Group");
            }
            (user, group) => {
                if let Err(text) = Identity::find(user, group) {
                    let place = self.place_of("User");
                    self.passing_problem(place, Some("User"), text);
                }
            }
        }
    }

    fn check_supported(&mut self, settings: &Settings) {
        let engine = settings.engine.as_str();
        let options =
            storage::EngineOptions { dsn: settings.digest_db.clone(), ..storage::EngineOptions::default() };
        if !engine.is_empty()
            && let Err(text) = storage::check(engine, &options)
        {
            let place = self.place_of("DigestDB");
            self.problem(place, Some("DigestDB"), format!("{text} (Engine is {engine})"));
        }
    }

    /// Refuses options that need one process, if several may share the port.
    fn check_shared_port(&mut self, settings: &Settings) {
        if !settings.reuse_port {
            return;
        }
        let place = self.place_of("ReusePort");
        let mut refuse = |text: &str| self.problem(place.clone(), Some("ReusePort"), text);
        if is_file(settings) {
            refuse("processes cannot share a gdbm file: set Engine to redis or mysql");
        }
        if settings.replay_guard {
            refuse(
                "each process remembers only its own requests, so another process would count a copy: set ReplayGuard \
                 or ReusePort to False",
            );
        }
        if settings.port == 0 {
            refuse("each process would get a port of its own: set Port");
        }
        let limits = [
            ("RateLimit", settings.rate_limit),
            ("RateLimitErrors", settings.rate_limit_errors),
            ("RateLimitWrites", settings.rate_limit_writes),
        ];
        let set: Vec<&str> = limits.iter().filter(|(_, rate)| *rate > 0).map(|(key, _)| *key).collect();
        if !set.is_empty() {
            self.notices.push(format!(
                "{}: each process on the port counts separately, so the limit is multiplied by the number of processes",
                set.join(", ")
            ));
        }
    }

    /// Refuses paths that no socket can have, and one path for both sockets.
    fn check_operator_sockets(&mut self, settings: &Settings) {
        let control = settings.control_socket.as_deref();
        let metrics = match &settings.metrics_address {
            Some(MetricsAddress::Unix(path)) => Some(path.as_path()),
            Some(MetricsAddress::Tcp(_)) | None => None,
        };
        for (key, path) in [("ControlSocket", control), ("MetricsAddress", metrics)] {
            if let Some(Err(error)) = path.map(check_socket_path) {
                let place = self.place_of(key);
                self.problem(place, Some(key), error.to_string());
            }
        }
        if metrics.is_some() && control == metrics {
            let place = self.place_of("MetricsAddress");
            self.problem(
                place,
                Some("MetricsAddress"),
                "ControlSocket has the same path: choose another one",
            );
        }
    }

    fn note_visible_password(&mut self, settings: &Settings) {
        if !is_file(settings) && self.given.get("DigestDB").is_some_and(|given| !given.in_file) {
            self.notices.push(
                "--dsn: every user of this machine can read the password in the process list: set DigestDB in the \
                 config file instead"
                    .to_owned(),
            );
        }
    }

    fn report_options_without_effect(&mut self) {
        let concurrency = self.given_with(OptionEffect::NoConcurrency);
        if !concurrency.is_empty() {
            self.notices.push(format!("{concurrency}: ignored, because one loop serves all requests"));
        }
        let sentry = self.given_with(OptionEffect::NoSentry);
        if !sentry.is_empty() {
            self.warnings.push(format!("{sentry}: ignored, because nothing is ever sent to Sentry"));
        }
    }

    /// Notes those of these options that are given although they have no effect without another one.
    pub(super) fn note_without_effect(&mut self, keys: &[&str], needed: &str) {
        let given = self.given_of(keys.iter().copied());
        if !given.is_empty() {
            self.notices.push(format!("{given}: no effect, because {needed} is not set"));
        }
    }

    /// The names of all options of this effect that have a value.
    fn given_with(&self, effect: OptionEffect) -> String {
        let options = OPTIONS.iter().filter(|option| option.effect == effect);
        self.given_of(options.map(|option| option.key))
    }

    /// The names of those of these options that have a value.
    fn given_of<'a>(&self, keys: impl Iterator<Item = &'a str>) -> String {
        let is_given = |key: &&str| self.given.get(key).is_some_and(|given| !given.text.is_empty());
        keys.filter(is_given).collect::<Vec<_>>().join(", ")
    }
}

/// Whether the database is a file.
fn is_file(settings: &Settings) -> bool {
    storage::properties(&settings.engine).is_file
}
