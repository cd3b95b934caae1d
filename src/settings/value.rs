//! The typed pass: checks the text of each option alone, and stores its value in [`Settings`].

use std::path::Path;

use super::load::{GivenValue, SettingsLoader};
use super::metrics_address::MetricsAddressError;
use super::option::{BadValue, OptionKind, ServerOption};
use super::table::OPTIONS;
use super::{MetricsAddress, Settings};
use crate::forward::ForwardFrom;
use crate::limits::{Networks, NetworksError};
use pyzor_home::loggable::quoted;
use pyzor_wire::forward_id::{ForwardOrigin, InvalidOrigin};

/// The advice for a file name that includes a comment.
pub(super) const COMMENT_ADVICE: &str = "includes a comment: put the comment on a line of its own";

impl SettingsLoader<'_> {
    /// Stores every option: the value that was given, or else the default.
    pub(super) fn typed(&mut self) -> Settings {
        let mut settings = Settings::default();
        for option in OPTIONS {
            let default = GivenValue::default_of(option);
            let given = self.given.get(option.key).cloned().unwrap_or_else(|| default.clone());
            let Err(text) = self.store(&mut settings, option, &given) else { continue };
            // A bad engine name leaves the field empty, which disables the checks that depend on the engine.
            if !matches!(option.kind, OptionKind::Word(..)) {
                let _ = self.store(&mut settings, option, &default);
            }
            if self.tolerates_bad_value(option) {
                let (place, key, default) = (given.place, option.key, option.default);
                self.warnings.push(format!("{place}: {key}: {text}; using the default {default}"));
            } else {
                self.problem(given.place, Some(option.key), text);
            }
        }
        settings
    }

    fn tolerates_bad_value(&self, option: &ServerOption) -> bool {
        match option.bad_value {
            BadValue::Refused => false,
            BadValue::Default => true,
            BadValue::DefaultWithoutThreads => {
                !self.given.get("Threads").is_some_and(|given| is_true(&given.text))
            }
        }
    }

    /// Checks a value, warns of a questionable one, and stores it.
    ///
    /// # Errors
    ///
    /// The problem with the value. Nothing was stored.
    pub(super) fn store(
        &mut self,
        settings: &mut Settings,
        option: &'static ServerOption,
        given: &GivenValue,
    ) -> Result<(), String> {
        let text = given.text.as_str();
        match option.kind {
            OptionKind::Switch(set) => set(settings, !text.is_empty()),
            OptionKind::Text(set) => set(settings, text.to_owned()),
            OptionKind::Truth(set) => {
                self.warn_of_odd_truth(option, given);
                set(settings, is_true(text));
            }
            OptionKind::StrictTruth(set) => set(settings, strict_truth(text)?),
            OptionKind::Number(lowest, highest, _, set) => {
                let number = number_between(lowest, highest, text)?;
                if !set(settings, number) {
                    return Err(format!("{number} is out of range"));
                }
            }
            OptionKind::Word(words, set) => set(settings, one_of(words, text)?),
            OptionKind::Networks(set) => set(settings, self.networks(option, given)?),
            OptionKind::Words(words, set) => set(settings, some_of(words, text)?),
            OptionKind::Senders(set) => set(settings, self.senders(option, given)?),
            OptionKind::Origin(set) => set(settings, origin(text)?),
            OptionKind::Metrics(set) => set(settings, self.metrics_address(option, given)?),
            OptionKind::File(set) => {
                check_path(text)?;
                self.warn_of_comment(option, given);
                let path = if text.is_empty() {
                    text.into()
                } else {
                    self.homedir.join(self.environment.expand(text))
                };
                set(settings, path);
            }
            OptionKind::Path(set) => {
                check_path(text)?;
                self.warn_of_comment(option, given);
                let directory = &self.environment.working_directory;
                set(settings, if text.is_empty() { text.into() } else { directory.join(Path::new(text)) });
            }
        }
        Ok(())
    }

    fn networks(&mut self, option: &ServerOption, given: &GivenValue) -> Result<Networks, String> {
        let networks: Networks = given.text.parse().map_err(|error: NetworksError| error.to_string())?;
        self.warn_of_widened(option, given, &networks);
        Ok(networks)
    }

    fn senders(&mut self, option: &ServerOption, given: &GivenValue) -> Result<ForwardFrom, String> {
        let senders: ForwardFrom = given.text.parse().map_err(|error: NetworksError| error.to_string())?;
        self.warn_of_widened(option, given, senders.networks());
        self.warnings.extend(senders.strangers().into_iter().map(|entry| {
            format!(
                "{}: {}: {entry} may include servers that this one forwards to: reports would circulate between them and \
                 be counted again and again: name only senders to which no report goes back",
                given.place, option.key
            )
        }));
        Ok(senders)
    }

    fn warn_of_widened(&mut self, option: &ServerOption, given: &GivenValue, networks: &Networks) {
        self.warnings.extend(networks.widened().map(|(written, taken)| {
            format!("{}: {}: {written} is not the start of a network: using {taken}", given.place, option.key)
        }));
    }

    fn metrics_address(
        &mut self,
        option: &ServerOption,
        given: &GivenValue,
    ) -> Result<Option<MetricsAddress>, String> {
        let text = given.text.as_str();
        check_path(text)?;
        if text.is_empty() {
            return Ok(None);
        }
        let address = text.parse().map_err(|error: MetricsAddressError| match has_comment(text) {
            true => format!("{} {COMMENT_ADVICE}", quoted(text)),
            false => error.to_string(),
        })?;
        if matches!(address, MetricsAddress::Unix(_)) {
            self.warn_of_comment(option, given);
        }
        Ok(Some(address))
    }

    fn warn_of_comment(&mut self, option: &ServerOption, given: &GivenValue) {
        if given.in_file && has_comment(&given.text) {
            let text = quoted(&given.text);
            self.warnings
                .push(format!("{}: {}: the file name {text} {COMMENT_ADVICE}", given.place, option.key));
        }
    }

    fn warn_of_odd_truth(&mut self, option: &ServerOption, given: &GivenValue) {
        let text = given.text.to_ascii_lowercase();
        if !matches!(text.as_str(), "true" | "false" | "" | "0" | "no" | "off") {
            self.warnings.push(format!(
                "{}: {}: {} means False, because only 'True', in any case, means True: write True or False",
                given.place,
                option.key,
                quoted(&given.text)
            ));
        }
    }
}

fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

fn strict_truth(text: &str) -> Result<bool, String> {
    match is_true(text) || text.eq_ignore_ascii_case("false") {
        true => Ok(is_true(text)),
        false => Err(format!("{} is neither True nor False", quoted(text))),
    }
}

fn one_of(words: &[&'static str], text: &str) -> Result<&'static str, String> {
    words
        .iter()
        .find(|word| **word == text)
        .copied()
        .ok_or_else(|| format!("unknown value {}: expected one of {}", quoted(text), words.join(", ")))
}

fn some_of(words: &[&'static str], text: &str) -> Result<Vec<&'static str>, String> {
    let listed = || text.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    if listed().next().is_none() {
        return Err(format!("the value is empty: expected some of {}", words.join(", ")));
    }
    listed().map(|word| one_of(words, word)).collect()
}

fn origin(text: &str) -> Result<Option<ForwardOrigin>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: InvalidOrigin| format!("{}: {error}", quoted(text)))
}

fn check_path(text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err("the path contains a zero byte".to_owned()),
        false => Ok(()),
    }
}

/// Reads a whole number between two bounds, inclusive.
fn number_between(lowest: i64, highest: i64, text: &str) -> Result<i64, String> {
    let number = pyzor_wire::number::integer(text.as_bytes()).ok_or_else(|| not_a_number(text))?;
    // A number of seconds beyond every time stamp has the effect of the largest one that fits.
    let number = if highest > i64::from(i32::MAX) { number.min(highest) } else { number };
    if number < lowest {
        return Err(format!("{} is less than the minimum of {lowest}", text.trim()));
    }
    if number > highest {
        return Err(format!("{} is more than the maximum of {highest}", text.trim()));
    }
    Ok(number)
}

fn not_a_number(text: &str) -> String {
    let leading: String = text.chars().take_while(char::is_ascii_digit).collect();
    let hint = match text[leading.len()..].trim_start().chars().next() {
        Some('#' | ';') if !leading.is_empty() => {
            format!(": write {leading}, and put the comment on a line of its own")
        }
        _ => String::new(),
    };
    format!("{} is not a whole number{hint}", quoted(text))
}

/// Whether a part of the value looks like a comment after it.
pub(super) fn has_comment(text: &str) -> bool {
    text.match_indices(['#', ';']).any(|(at, _)| text[..at].ends_with(char::is_whitespace))
}
