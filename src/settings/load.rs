//! Loading: collects the values of the config file and the command line, and runs all checks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::option::ServerOption;
use super::table::{self, OPTIONS};
use super::{Environment, SECTION, ServerInvocation, SettingsError};
use crate::os::open;
use pyzor_home::ini::IniDocument;
use pyzor_home::loggable::loggable_name;
use pyzor_home::problem::ConfigProblem;

/// The name, in messages, of the source of a value that was not given.
const DEFAULT_PLACE: &str = "the default";
/// The name of the config file in the homedir.
const FILE: &str = "config";
/// The homedir without `HOME`.
const SYSTEM_HOMEDIR: &str = "/etc/pyzor";

/// The text of a value, and the place where it was given.
#[derive(Clone, Debug)]
pub(super) struct GivenValue {
    pub(super) place: String,
    pub(super) text: String,
    pub(super) in_file: bool,
}

impl GivenValue {
    pub(super) fn default_of(option: &ServerOption) -> Self {
        Self { place: DEFAULT_PLACE.to_owned(), text: option.default.to_owned(), in_file: false }
    }
}

/// The values and problems found so far.
pub(super) struct SettingsLoader<'a> {
    pub(super) environment: &'a Environment,
    pub(super) homedir: PathBuf,
    command_line: Vec<(&'static ServerOption, String)>,
    pub(super) given: BTreeMap<&'static str, GivenValue>,
    problems: Vec<ConfigProblem>,
    /// The number of problems that may pass by themselves.
    passing: usize,
    /// Whether the values are unknown, because the config file or the homedir is out of reach for now.
    is_out_of_reach: bool,
    pub(super) warnings: Vec<String>,
    pub(super) notices: Vec<String>,
}

impl<'a> SettingsLoader<'a> {
    pub(super) fn new(
        environment: &'a Environment,
        command_line: Vec<(&'static ServerOption, String)>,
    ) -> Self {
        let homedir = match (homedir_option(&command_line), &environment.home) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) if !home.is_empty() => Path::new(home).join(".pyzor"),
            (None, _) => PathBuf::from(SYSTEM_HOMEDIR),
        };
        Self {
            environment,
            homedir: environment.working_directory.join(homedir),
            command_line,
            given: BTreeMap::new(),
            problems: Vec::new(),
            passing: 0,
            is_out_of_reach: false,
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

    /// Checks the homedir, and collects the values of the config file and of the command line.
    pub(super) fn read(&mut self) {
        self.check_homedir();
        self.read_config();
    }

    /// Reports a problem that may pass by itself.
    pub(super) fn passing_problem(
        &mut self,
        place: impl Into<String>,
        option: Option<&str>,
        text: impl Into<String>,
    ) {
        self.passing += 1;
        self.problem(place, option, text);
    }

    /// Reports a file or directory that cannot be used because of this error.
    fn unreachable(&mut self, place: impl Into<String>, error: &io::Error, text: impl Into<String>) {
        self.is_out_of_reach |= !open::is_lasting(error);
        self.problem(place, None, text);
    }

    /// Collects the values of the config file and of the command line.
    pub(super) fn read_config(&mut self) {
        let path = self.homedir.join(FILE);
        let read = |mut file: File| {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map(|_| text)
        };
        self.read_text(&path.display().to_string(), open::to_read(&path).and_then(read));
    }

    /// Collects the values of the text of a config file, or reports the error of reading it, and those of the command
    /// line.
    pub(super) fn read_text(&mut self, name: &str, text: io::Result<Vec<u8>>) {
        let mut document = IniDocument::default();
        match text {
            Ok(text) => match IniDocument::parse(&text, name) {
                Ok(parsed) => document = parsed,
                Err(problems) => self.problems.extend(problems),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Reported by the check of the homedir.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => self.unreachable(name, &error, format!("cannot read the file: {error}")),
        }
        // Before any reference is resolved: references see the values of the command line.
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

    /// Reports a homedir that does not exist and cannot be created.
    fn check_homedir(&mut self) {
        if homedir_option(&self.command_line) == Some("") {
            return self.problem("--homedir", None, "the path of the homedir is empty");
        }
        let homedir = self.homedir.display().to_string();
        if self.homedir.to_str().is_none() {
            return self.problem(homedir, None, "the path of the homedir is not UTF-8");
        }
        if let Ok(metadata) = fs::metadata(&self.homedir) {
            if !metadata.is_dir() {
                self.problem(homedir, None, "the homedir is not a directory");
            }
            return;
        }
        match fs::metadata(self.homedir.parent().unwrap_or(Path::new("/"))) {
            Ok(parent) if parent.is_dir() => {
                self.notices.push(format!("the homedir {homedir} does not exist and will be created"));
            }
            Ok(_) => self.problem(homedir, None, "cannot create the homedir, because its parent is not a directory"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.unreachable(
                homedir,
                &error,
                "cannot create the homedir, because its parent directory does not exist: create that first, or mount \
                 its disk",
            ),
            Err(error) => self.unreachable(homedir, &error, format!("cannot reach the homedir: {error}")),
        }
    }

    fn take_values(&mut self, document: &IniDocument, name: &str) {
        if let Some(other) = document.other_case_of(SECTION) {
            self.warnings
                .push(format!("{name}: the section [{other}] is ignored: the server reads [{SECTION}]"));
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
            // The name of the reference could be a part of a password.
            Err(_) if option.is_secret => self.problem(
                place,
                Some(option.key),
                "a %(name)s reference is unknown or circular: for a plain % write %%",
            ),
            Err(text) => self.problem(place, Some(option.key), text),
        }
    }

    /// Returns the problems found so far, and forgets them.
    pub(super) fn take_problems(&mut self) -> Vec<ConfigProblem> {
        std::mem::take(&mut self.problems)
    }

    /// Checks all values, alone and together, and returns the settings.
    pub(super) fn finish(mut self) -> Result<ServerInvocation, SettingsError> {
        let mut settings = self.typed();
        self.check(&settings);
        settings.access_order_explicit = self.given.contains_key("AccessOrder");
        settings.port_is_given = self.given.contains_key("Port");
        settings.listen_address_is_given = self.given.contains_key("ListenAddress");
        settings.forward = settings.forward_settings(self.environment);
        settings.upstream = settings.upstream_settings(self.environment);
        settings.homedir = self.homedir.clone();
        if !self.problems.is_empty() {
            let check = settings.check_config.then(|| Box::new(settings.checked_sources()));
            // Without the file, other problems may be consequences.
            let may_pass = self.is_out_of_reach || self.passing == self.problems.len();
            let Self { problems, warnings, .. } = self;
            return Err(SettingsError::Configuration { problems, warnings, check, may_pass });
        }
        settings.digest_db_path = self.homedir.join(self.environment.expand(&settings.digest_db));
        (settings.warnings, settings.notices) = (self.warnings, self.notices);
        let settings = Box::new(settings);
        Ok(match (settings.check_config, settings.recover) {
            (true, _) => ServerInvocation::CheckConfig(settings),
            (false, true) => ServerInvocation::Recover(settings),
            (false, false) => ServerInvocation::Serve(settings),
        })
    }

    pub(super) fn place_of(&self, key: &str) -> String {
        self.given.get(key).map_or_else(|| DEFAULT_PLACE.to_owned(), |given| given.place.clone())
    }
}

fn homedir_option<'a>(command_line: &'a [(&'static ServerOption, String)]) -> Option<&'a str> {
    command_line.iter().find(|(option, _)| option.key == "homedir").map(|(_, path)| path.as_str())
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
    let name = name.escape_debug().to_string();
    format!("{place}: unknown option {}, ignored{hint}", loggable_name(&name))
}
