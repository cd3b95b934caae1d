//! What is wrong with a value, or with several together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::load::{GivenValue, SettingsLoader};
use super::table::{OPTIONS, OptionEffect, OptionKind, ServerOption};
use super::value::SettingValue;
use crate::limits::{Networks, NetworksError};
use crate::os::privileges::Identity;
use crate::storage;

/// What a warning says of a file's name with a comment in it.
const TAKEN_WHOLE: &str = "is taken whole as the file's name, since a comment cannot follow a value";

impl SettingsLoader<'_> {
    /// Whether the Python server starts with a bad value of this option, since it looks at it only
    /// when it has use for it.
    pub(super) fn tolerates_bad_value(&self, option: &ServerOption) -> bool {
        let is_true = |key| self.given.get(key).is_some_and(|given| given.text.eq_ignore_ascii_case("true"));
        match option.key {
            "MaxThreads" | "DBConnections" => !is_true("Threads"),
            "MaxProcesses" => true,
            _ => false,
        }
    }

    pub(super) fn value(
        &mut self,
        option: &'static ServerOption,
        given: &GivenValue,
    ) -> Result<SettingValue, String> {
        let text = given.text.as_str();
        match option.kind {
            OptionKind::Text => Ok(SettingValue::Text(text.to_owned())),
            OptionKind::Switch => Ok(SettingValue::Truth(!text.is_empty())),
            // Half a word must not open what is closed.
            OptionKind::Truth if option.key == "Confine" && !is_truth(text) => {
                Err(format!("'{}' is neither True nor False", text.escape_debug()))
            }
            OptionKind::Truth => {
                self.warn_of_odd_truth(option, given);
                Ok(SettingValue::Truth(text.eq_ignore_ascii_case("true")))
            }
            OptionKind::Number(lowest, highest, _) => {
                number_between(lowest, highest, text).map(SettingValue::Number)
            }
            OptionKind::Word(words) => match words.iter().find(|word| **word == text) {
                Some(word) => Ok(SettingValue::Text((*word).to_owned())),
                None => Err(format!(
                    "there is no '{}'; expected one of: {}",
                    text.escape_debug(),
                    words.join(", ")
                )),
            },
            OptionKind::Networks => {
                let networks: Networks = text.parse().map_err(|error: NetworksError| error.to_string())?;
                self.warnings.extend(networks.widened().map(|(written, taken)| {
                    format!("{}: {}: {written} is taken as {taken}", given.place, option.key)
                }));
                Ok(SettingValue::Text(text.to_owned()))
            }
            OptionKind::File | OptionKind::Path if text.contains('\0') => {
                Err("a path cannot contain a zero byte".to_owned())
            }
            OptionKind::File => {
                if given.in_file && has_comment(text) {
                    self.warnings.push(format!(
                        "{}: {}: '{}' {TAKEN_WHOLE}",
                        given.place,
                        option.key,
                        text.escape_debug()
                    ));
                }
                Ok(self.path(text, self.environment.expand(text), &self.homedir))
            }
            OptionKind::Path => Ok(self.path(text, text.into(), &self.environment.working_directory)),
        }
    }

    fn path(&self, text: &str, path: PathBuf, base: &Path) -> SettingValue {
        if text.is_empty() {
            return SettingValue::Text(String::new());
        }
        SettingValue::Text(base.join(path).display().to_string())
    }

    /// A comment behind the name of the database's file becomes a part of that name, and the server
    /// would begin with an empty database.
    pub(super) fn warn_of_comment_in_database(&mut self, values: &BTreeMap<&str, SettingValue>) {
        let is_file = has_file(values);
        let given = self.given.get("DigestDB").filter(|given| given.in_file && has_comment(&given.text));
        if let Some(given) = given
            && is_file
        {
            // The text is not shown: without its engine's line it may be another engine's, with a password.
            self.warnings.push(format!("{}: DigestDB: the value {TAKEN_WHOLE}", given.place));
        }
    }

    fn warn_of_odd_truth(&mut self, option: &ServerOption, given: &GivenValue) {
        let text = given.text.to_ascii_lowercase();
        if matches!(text.as_str(), "true" | "false" | "" | "0" | "no" | "off") {
            return;
        }
        self.warnings.push(format!(
            "{}: {}: '{}' counts as false, since only 'true' is true",
            given.place,
            option.key,
            given.text.escape_debug()
        ));
    }

    /// Deployed configurations set several of these at once, which is fine as far as it was.
    pub(super) fn check_concurrency(&mut self, values: &BTreeMap<&str, SettingValue>) {
        let is_true = |key| values.get(key) == Some(&SettingValue::Truth(true));
        if is_true("Threads") && is_true("Processes") {
            let place = self.place_of("Processes");
            self.problem(place, None, "You cannot use both processes and threads at the same time");
        }
        if let Some(SettingValue::Number(number)) = values.get("PreFork")
            && (*number == 1 || *number < 0)
        {
            let place = self.place_of("PreFork");
            self.problem(place, None, "Pre-fork value cannot be lower than 2.");
        }
    }

    /// A user who does not exist is found out before anything is done.
    pub(super) fn check_identity(&mut self, values: &BTreeMap<&str, SettingValue>) {
        let text = |key| match values.get(key) {
            Some(SettingValue::Text(text)) => text.as_str(),
            _ => "",
        };
        match (text("User"), text("Group")) {
            ("", "") => {}
            ("", _) => {
                let place = self.place_of("Group");
                self.problem(place, Some("Group"), "a group without a user: set User as well");
            }
            (user, group) => {
                if let Err(text) = Identity::find(user, group) {
                    let place = self.place_of("User");
                    self.problem(place, Some("User"), text);
                }
            }
        }
    }

    pub(super) fn check_supported(&mut self, values: &BTreeMap<&str, SettingValue>) {
        if let (Some(SettingValue::Text(engine)), Some(SettingValue::Text(dsn))) =
            (values.get("Engine"), values.get("DigestDB"))
            && let Err(text) = storage::check(
                engine,
                &storage::EngineOptions { dsn: dsn.clone(), ..storage::EngineOptions::default() },
            )
        {
            let place = self.place_of("DigestDB");
            self.problem(place, Some("DigestDB"), format!("{text} (Engine is {engine})"));
        }
        if let Some(SettingValue::Text(path)) = values.get("ForwardClientHomeDir")
            && !path.is_empty()
        {
            let place = self.place_of("ForwardClientHomeDir");
            self.problem(
                place,
                Some("ForwardClientHomeDir"),
                "this version does not support forwarding yet: remove the option",
            );
        }
    }

    /// Several processes know nothing of each other.
    pub(super) fn check_shared_port(&mut self, values: &BTreeMap<&str, SettingValue>) {
        let is_true = |key| values.get(key) == Some(&SettingValue::Truth(true));
        if !is_true("ReusePort") {
            return;
        }
        let place = self.place_of("ReusePort");
        let mut refuse = |text: &str| self.problem(place.clone(), Some("ReusePort"), text);
        if has_file(values) {
            refuse("a file of gdbm has one process: set Engine to redis or mysql");
        }
        if is_true("ReplayGuard") {
            refuse(
                "a copy of a request may reach another process, which does not know it: switch ReplayGuard off, or have \
                 one process",
            );
        }
        if values.get("Port") == Some(&SettingValue::Number(0)) {
            refuse("each process would have a port of its own: set Port");
        }
        let limits = ["RateLimit", "RateLimitErrors", "RateLimitWrites"];
        let limits: Vec<&str> = limits
            .into_iter()
            .filter(|key| !matches!(values.get(key), None | Some(SettingValue::Number(0))))
            .collect();
        if !limits.is_empty() {
            self.notices.push(format!(
                "{}: each process on the port counts by itself, so that a source prefix may have as many times that as \
                 there are processes",
                limits.join(", ")
            ));
        }
    }

    pub(super) fn note_visible_password(&mut self, values: &BTreeMap<&str, SettingValue>) {
        let is_file = has_file(values);
        if !is_file && self.given.get("DigestDB").is_some_and(|given| !given.in_file) {
            self.notices.push(
                "--dsn: every user of this machine can read it in the list of processes, with the password in it: \
                 better is DigestDB in the config file"
                    .to_owned(),
            );
        }
    }

    pub(super) fn report_options_without_effect(&mut self) {
        let given = |sentry: bool| {
            let options = OPTIONS.iter().filter(|option| option.effect == OptionEffect::None);
            let wanted = options.filter(|option| option.key.contains("Sentry") == sentry);
            wanted
                .filter(|option| self.given.get(option.key).is_some_and(|given| !given.text.is_empty()))
                .map(|option| option.key)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (concurrency, sentry) = (given(false), given(true));
        if !concurrency.is_empty() {
            self.notices
                .push(format!("{concurrency}: accepted, without effect: one loop serves all requests"));
        }
        if !sentry.is_empty() {
            self.warnings.push(format!("{sentry}: accepted, without effect: nothing is ever sent to Sentry"));
        }
    }
}

/// Whether the engine's database is a file.
fn has_file(values: &BTreeMap<&str, SettingValue>) -> bool {
    matches!(values.get("Engine"), Some(SettingValue::Text(engine)) if storage::properties(engine).is_file)
}

fn is_truth(text: &str) -> bool {
    ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Reads a whole number from the lowest to the highest.
fn number_between(lowest: i64, highest: i64, text: &str) -> Result<i64, String> {
    let number = pyzor_wire::number::integer(text.as_bytes()).ok_or_else(|| no_number(text))?;
    // More seconds than the clock can hold are as good as that many.
    let number = if highest > i64::from(i32::MAX) { number.min(highest) } else { number };
    if number < lowest {
        return Err(format!("{number} is less than {lowest}"));
    }
    if number > highest {
        return Err(format!("{number} is more than {highest}"));
    }
    Ok(number)
}

/// Whether something in a value looks like a comment behind it.
fn has_comment(text: &str) -> bool {
    text.match_indices(['#', ';']).any(|(at, _)| text[..at].ends_with(char::is_whitespace))
}

fn no_number(text: &str) -> String {
    let leading: String = text.chars().take_while(char::is_ascii_digit).collect();
    let hint = match text[leading.len()..].trim_start().chars().next() {
        Some('#' | ';') if !leading.is_empty() => {
            format!(": a comment cannot follow a value, write just {leading}")
        }
        _ => String::new(),
    };
    format!("'{}' is not a whole number{hint}", text.escape_debug())
}
