//! Values from all places, checked one by one, made into [`Settings`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::table::{self, OPTIONS, OptionEffect, ServerOption};
use super::value::{self, SettingValue};
use super::{Environment, SECTION, ServerInvocation, Settings, SettingsError};
use crate::access::{AccessOrder, AccessSources};
use crate::os::open;
use pyzor_home::ini::IniDocument;
use pyzor_home::problem::ConfigProblem;

/// What messages call the place of a value that was not given.
const DEFAULT_PLACE: &str = "the default";
/// The config file's name in the homedir.
const FILE: &str = "config";
/// The homedir of a user without a home.
const SYSTEM_HOMEDIR: &str = "/etc/pyzor";
/// Options whose text may hold a password.
const SECRET: [&str; 3] = ["DigestDB", "SentryDSN", "UsageSentryDSN"];

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct GivenValue {
    pub(super) place: String,
    pub(super) text: String,
    pub(super) in_file: bool,
}

/// All that is known of the settings so far, and all that is wrong with them.
pub(super) struct SettingsLoader<'a> {
    pub(super) environment: &'a Environment,
    pub(super) homedir: PathBuf,
    command_line: Vec<(&'static ServerOption, String)>,
    pub(super) given: BTreeMap<&'static str, GivenValue>,
    problems: Vec<ConfigProblem>,
    pub(super) warnings: Vec<String>,
    pub(super) notices: Vec<String>,
}

impl<'a> SettingsLoader<'a> {
    pub(super) fn new(
        environment: &'a Environment,
        command_line: Vec<(&'static ServerOption, String)>,
    ) -> Self {
        let named = command_line.iter().find(|(option, _)| option.key == "homedir");
        let named = named.map(|(_, path)| PathBuf::from(path));
        let homedir = named.unwrap_or_else(|| match &environment.home {
            Some(home) if !home.is_empty() => Path::new(home).join(".pyzor"),
            _ => PathBuf::from(SYSTEM_HOMEDIR),
        });
        Self {
            environment,
            homedir: environment.working_directory.join(homedir),
            command_line,
            given: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub(super) fn problem(
        &mut self,
        place: impl Into<String>,
        option: Option<&str>,
        text: impl Into<String>,
    ) {
        let option = option.map(str::to_owned);
        self.problems.push(ConfigProblem { place: place.into(), option, text: text.into() });
    }

    /// Reads the file, and then takes all values, of the file and of the command line.
    pub(super) fn read(&mut self) {
        self.check_homedir();
        let path = self.homedir.join(FILE);
        let read = |mut file: File| {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map(|_| text)
        };
        self.read_text(&path.display().to_string(), open::to_read(&path).and_then(read));
    }

    /// Takes all values, of what became of reading the file of that name and of the command line.
    pub(super) fn read_text(&mut self, name: &str, text: io::Result<Vec<u8>>) {
        let mut document = IniDocument::default();
        match text {
            Ok(text) => match IniDocument::parse(&text, name) {
                Ok(parsed) => document = parsed,
                Err(problems) => self.problems.extend(problems),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // That the homedir is no directory has been reported.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => self.problem(name, None, format!("cannot read the file: {error}")),
        }
        // Before anything is resolved, since references see what counts in the end.
        for (option, text) in &self.command_line {
            if option.in_file {
                document.set(SECTION, option.key, text);
            }
        }
        self.take_values(&document, name);
        for (option, text) in std::mem::take(&mut self.command_line) {
            let place = format!("--{}", option.flag.unwrap_or_default());
            if option.in_file {
                self.take(&document, option, place, &text, false);
            } else {
                self.given.insert(option.key, GivenValue { place, text, in_file: false });
            }
        }
    }

    /// Says what would keep a start from making the homedir, if it is not there.
    fn check_homedir(&mut self) {
        let named = self
            .command_line
            .iter()
            .find(|(option, _)| option.key == "homedir")
            .map(|(_, text)| text.as_str());
        if named == Some("") {
            return self.problem("--homedir", None, "the name of the homedir is empty");
        }
        let homedir = self.homedir.display().to_string();
        if self.homedir.to_str().is_none() {
            // As text it would be another one.
            self.problem(homedir, None, "the name of the homedir is not UTF-8");
        } else if self.homedir.is_dir() {
        } else if self.homedir.exists() {
            self.problem(homedir, None, "the homedir is not a folder");
        } else if self.homedir.parent().is_some_and(Path::is_dir) {
            self.notices.push(format!("the homedir {homedir} is not there and will be created"));
        } else {
            self.problem(
                homedir,
                None,
                "the homedir cannot be created, since the folder that it is to be in is not there",
            );
        }
    }

    fn take_values(&mut self, document: &IniDocument, name: &str) {
        if let Some(other) = document.other_case_of(SECTION) {
            self.warnings
                .push(format!("{name}: the section [{other}] is not read; the server's is [{SECTION}]"));
        }
        for value in document.section(SECTION).iter().filter(|value| value.line > 0) {
            let place = format!("{name}:{}", value.line);
            match table::by_key(&value.name) {
                Some(option) => self.take(document, option, place, &value.text, true),
                None => self.warnings.push(unknown(&place, &value.name)),
            }
        }
    }

    fn take(
        &mut self,
        document: &IniDocument,
        option: &'static ServerOption,
        place: String,
        text: &str,
        in_file: bool,
    ) {
        let default = |key: &str| table::by_key(key).map(|option| option.default.to_owned());
        match document.interpolate(SECTION, text, &default) {
            Ok(text) => {
                self.given.insert(option.key, GivenValue { place, text, in_file });
            }
            // What looks like a name could be a part of the password.
            Err(_) if SECRET.contains(&option.key) => self.problem(
                place,
                Some(option.key),
                "a %(name)s in it refers to nothing, or in a circle; for a plain % write %%",
            ),
            Err(text) => self.problem(place, Some(option.key), text),
        }
    }

    /// Checks all values one by one, and returns those without a problem.
    fn check_each(&mut self) -> BTreeMap<&'static str, SettingValue> {
        let mut values = BTreeMap::new();
        for option in OPTIONS {
            let given = self.given.get(option.key).cloned().unwrap_or_else(|| GivenValue {
                place: DEFAULT_PLACE.to_owned(),
                text: option.default.to_owned(),
                in_file: false,
            });
            match self.value(option, &given) {
                Ok(value) => {
                    values.insert(option.key, value);
                }
                Err(text) if self.tolerates_bad_value(option) => {
                    let (place, key, default) = (given.place, option.key, option.default);
                    self.warnings.push(format!("{place}: {key}: {text}; taken as {default}"));
                    values.insert(option.key, SettingValue::Number(default.parse().unwrap_or_default()));
                }
                Err(text) => self.problem(given.place, Some(option.key), text),
            }
        }
        values
    }

    /// Checks all values, and makes settings of them.
    pub(super) fn finish(mut self) -> Result<ServerInvocation, SettingsError> {
        let mut values = self.check_each();
        self.warn_of_comment_in_database(&values);
        self.check_concurrency(&values);
        self.check_identity(&values);
        self.check_supported(&values);
        self.check_shared_port(&values);
        self.note_visible_password(&values);
        self.report_options_without_effect();
        let is_set = |key| values.get(key) == Some(&SettingValue::Truth(true));
        let (check, recover) = (is_set("check-config"), is_set("recover"));
        if !self.problems.is_empty() {
            let check = check.then(|| self.sources(&values));
            return Err(SettingsError::Configuration {
                problems: self.problems,
                warnings: self.warnings,
                check,
            });
        }
        values.insert("homedir", SettingValue::Text(self.homedir.display().to_string()));
        let honoured =
            OPTIONS.iter().filter(|option| option.effect == OptionEffect::Honoured && is_a_field(option.key));
        let honoured: BTreeMap<&str, SettingValue> =
            honoured.filter_map(|option| Some((option.key, values.remove(option.key)?))).collect();
        match Settings::deserialize(value::SettingMap(honoured)) {
            Ok(mut settings) => {
                settings.access_order_explicit = self.given.contains_key("AccessOrder");
                settings.digest_db_path = self.homedir.join(self.environment.expand(&settings.digest_db));
                (settings.warnings, settings.notices) = (self.warnings, self.notices);
                let settings = Box::new(settings);
                Ok(match (check, recover) {
                    (true, _) => ServerInvocation::CheckConfig(settings),
                    (false, true) => ServerInvocation::Recover(settings),
                    (false, false) => ServerInvocation::Serve(settings),
                })
            }
            // The table promises what the fields cannot hold: a defect, but never a silent one.
            Err(error) => {
                let problem =
                    ConfigProblem { place: "settings".to_owned(), option: None, text: error.to_string() };
                Err(SettingsError::Configuration {
                    problems: vec![problem],
                    warnings: self.warnings,
                    check: None,
                })
            }
        }
    }

    /// Where accounts and rights would come from if the values that have problems were the defaults.
    fn sources(&self, values: &BTreeMap<&str, SettingValue>) -> AccessSources {
        let file = |key: &str| match values.get(key) {
            Some(SettingValue::Text(path)) => PathBuf::from(path),
            _ => self.homedir.join(table::by_key(key).map_or("", |option| option.default)),
        };
        AccessSources {
            passwd: file("PasswdFile"),
            access: file("AccessFile"),
            order: AccessOrder::default(),
            order_chosen: self.given.contains_key("AccessOrder"),
        }
    }

    pub(super) fn place_of(&self, key: &str) -> String {
        self.given.get(key).map_or_else(|| DEFAULT_PLACE.to_owned(), |given| given.place.clone())
    }
}

/// Whether an honoured option is a field of [`Settings`]; the others have been acted upon.
pub(super) fn is_a_field(key: &str) -> bool {
    !matches!(key, "check-config" | "recover" | "ForwardClientHomeDir")
}

fn unknown(place: &str, name: &str) -> String {
    let folded = name.to_ascii_lowercase();
    let near = OPTIONS
        .iter()
        .filter(|option| option.in_file)
        .map(|option| (strsim::damerau_levenshtein(&option.key.to_ascii_lowercase(), &folded), option.key))
        .min()
        .filter(|(distance, key)| *distance <= 2.max(key.len() / 4));
    let hint = near.map(|(_, key)| format!("; did you mean {key}?")).unwrap_or_default();
    format!("{place}: unknown option {}, ignored{hint}", name.escape_debug())
}
