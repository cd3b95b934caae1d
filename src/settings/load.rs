//! Values from all places, checked one by one, made into [`Settings`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ini::Document;
use super::table::{self, Effect, Kind, OPTIONS, Opt};
use super::value::{self, Value};
use super::{Environment, Failure, Invocation, Problem, SECTION, Settings};
use crate::access::{Order, Sources};
use crate::storage;

/// The config file's name in the homedir.
const FILE: &str = "config";
/// The homedir of who has no home.
const SYSTEM_HOMEDIR: &str = "/etc/pyzor";
/// Options whose text may hold a password.
const SECRET: [&str; 3] = ["DigestDB", "SentryDSN", "UsageSentryDSN"];

/// A value and who gave it.
#[derive(Clone, Debug)]
struct Given {
    place: String,
    text: String,
    in_file: bool,
}

/// All that is known of the settings so far, and all that is wrong with them.
pub(super) struct Loader<'a> {
    environment: &'a Environment,
    homedir: PathBuf,
    command_line: Vec<(&'static Opt, String)>,
    given: BTreeMap<&'static str, Given>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    notices: Vec<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(environment: &'a Environment, command_line: Vec<(&'static Opt, String)>) -> Self {
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

    fn problem(&mut self, place: impl Into<String>, option: Option<&str>, text: impl Into<String>) {
        let option = option.map(str::to_owned);
        self.problems.push(Problem { place: place.into(), option, text: text.into() });
    }

    /// Reads the file, and then takes all values, of the file and of the command line.
    pub(super) fn read(&mut self) {
        self.check_homedir();
        let path = self.homedir.join(FILE);
        let name = path.display().to_string();
        let mut document = Document::default();
        match std::fs::read(&path) {
            Ok(text) => match Document::parse(&text, &name) {
                Ok(parsed) => document = parsed,
                Err(problems) => self.problems.extend(problems),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // That it is no folder has been told.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => self.problem(name.clone(), None, format!("cannot read the file: {error}")),
        }
        // Before anything is resolved, since references see what counts in the end.
        for (option, text) in &self.command_line {
            if option.in_file {
                document.set(SECTION, option.key, text);
            }
        }
        self.take_values(&document, &name);
        for (option, text) in std::mem::take(&mut self.command_line) {
            let place = format!("--{}", option.flag.unwrap_or_default());
            if option.in_file {
                self.take(&document, option, place, &text, false);
            } else {
                self.given.insert(option.key, Given { place, text, in_file: false });
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

    fn take_values(&mut self, document: &Document, name: &str) {
        for value in document.section(SECTION).iter().filter(|value| value.line > 0) {
            let place = format!("{name}:{}", value.line);
            match table::by_key(&value.name) {
                Some(option) => self.take(document, option, place, &value.text, true),
                None => self.warnings.push(unknown(&place, &value.name)),
            }
        }
    }

    fn take(&mut self, document: &Document, option: &'static Opt, place: String, text: &str, in_file: bool) {
        let default = |key: &str| table::by_key(key).map(|option| option.default.to_owned());
        match document.interpolate(SECTION, text, &default) {
            Ok(text) => {
                self.given.insert(option.key, Given { place, text, in_file });
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

    pub(super) fn finish(mut self) -> Result<Invocation, Failure> {
        let mut values = BTreeMap::new();
        for option in OPTIONS {
            let given = self.given.get(option.key).cloned().unwrap_or_else(|| Given {
                place: "the default".to_owned(),
                text: option.default.to_owned(),
                in_file: false,
            });
            match self.value(option, &given) {
                Ok(value) => {
                    values.insert(option.key, value);
                }
                Err(text) if self.was_never_looked_at(option) => {
                    let (place, key, default) = (given.place, option.key, option.default);
                    self.warnings.push(format!("{place}: {key}: {text}; taken as {default}"));
                    values.insert(option.key, Value::Number(default.parse().unwrap_or_default()));
                }
                Err(text) => self.problem(given.place, Some(option.key), text),
            }
        }
        self.question_database(&values);
        self.check_concurrency(&values);
        self.check_supported(&values);
        self.tell_what_has_no_effect();
        let check = values.get("check-config") == Some(&Value::Truth(true));
        if !self.problems.is_empty() {
            let check = check.then(|| self.sources(&values));
            return Err(Failure::Configuration { problems: self.problems, warnings: self.warnings, check });
        }
        values.insert("homedir", Value::Text(self.homedir.display().to_string()));
        let honoured =
            OPTIONS.iter().filter(|option| option.effect == Effect::Honoured && is_a_field(option.key));
        let honoured: BTreeMap<&str, Value> =
            honoured.filter_map(|option| Some((option.key, values.remove(option.key)?))).collect();
        match Settings::deserialize(value::Map(honoured)) {
            Ok(mut settings) => {
                settings.access_order_explicit = self.given.contains_key("AccessOrder");
                settings.digest_db_path = self.homedir.join(self.environment.expand(&settings.digest_db));
                (settings.warnings, settings.notices) = (self.warnings, self.notices);
                let settings = Box::new(settings);
                Ok(if check { Invocation::CheckConfig(settings) } else { Invocation::Serve(settings) })
            }
            // The table promises what the fields cannot hold: a defect, but never a silent one.
            Err(error) => {
                let problem = Problem { place: "settings".to_owned(), option: None, text: error.to_string() };
                Err(Failure::Configuration { problems: vec![problem], warnings: self.warnings, check: None })
            }
        }
    }

    /// Whether the Python server starts with a bad value of this option, since it looks at it only
    /// when it has use for it.
    fn was_never_looked_at(&self, option: &Opt) -> bool {
        let is_true = |key| self.given.get(key).is_some_and(|given| given.text.eq_ignore_ascii_case("true"));
        match option.key {
            "MaxThreads" | "DBConnections" => !is_true("Threads"),
            "MaxProcesses" => true,
            _ => false,
        }
    }

    /// Where accounts and rights would come from if the values that have problems were the defaults.
    fn sources(&self, values: &BTreeMap<&str, Value>) -> Sources {
        let file = |key: &str| match values.get(key) {
            Some(Value::Text(path)) => PathBuf::from(path),
            _ => self.homedir.join(table::by_key(key).map_or("", |option| option.default)),
        };
        Sources {
            passwd: file("PasswdFile"),
            access: file("AccessFile"),
            order: Order::default(),
            order_chosen: self.given.contains_key("AccessOrder"),
        }
    }

    fn value(&mut self, option: &'static Opt, given: &Given) -> Result<Value, String> {
        let text = given.text.as_str();
        match option.kind {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Switch => Ok(Value::Truth(!text.is_empty())),
            Kind::Truth => {
                self.question_truth(option, given);
                Ok(Value::Truth(text.eq_ignore_ascii_case("true")))
            }
            Kind::Number(lowest, highest, _) => {
                let number =
                    crate::protocol::number::integer(text.as_bytes()).ok_or_else(|| no_number(text))?;
                // More seconds than the clock can hold are as good as that many.
                let number = if highest > i64::from(i32::MAX) { number.min(highest) } else { number };
                if number < lowest {
                    return Err(format!("{number} is less than {lowest}"));
                }
                if number > highest {
                    return Err(format!("{number} is more than {highest}"));
                }
                Ok(Value::Number(number))
            }
            Kind::Word(words) => match words.iter().find(|word| **word == text) {
                Some(word) => Ok(Value::Text((*word).to_owned())),
                None => Err(format!(
                    "there is no '{}'; expected one of: {}",
                    text.escape_debug(),
                    words.join(", ")
                )),
            },
            Kind::File | Kind::Path if text.contains('\0') => {
                Err("a path cannot contain a zero byte".to_owned())
            }
            Kind::File => {
                if given.in_file && has_comment(text) {
                    self.warnings.push(format!(
                        "{}: {}: '{}' is taken whole as the file's name, since a comment cannot follow a value",
                        given.place,
                        option.key,
                        text.escape_debug()
                    ));
                }
                Ok(self.path(text, self.environment.expand(text), &self.homedir))
            }
            Kind::Path => Ok(self.path(text, text.into(), &self.environment.working_directory)),
        }
    }

    fn path(&self, text: &str, path: PathBuf, base: &Path) -> Value {
        if text.is_empty() {
            return Value::Text(String::new());
        }
        Value::Text(base.join(path).display().to_string())
    }

    /// A comment behind the name of the database's file becomes a part of that name, and the server
    /// would begin with an empty database.
    fn question_database(&mut self, values: &BTreeMap<&str, Value>) {
        let is_file = values.get("Engine") == Some(&Value::Text("gdbm".to_owned()));
        let given = self.given.get("DigestDB").filter(|given| given.in_file && has_comment(&given.text));
        if let Some(given) = given
            && is_file
        {
            // The text is not told: without its engine's line it may be another engine's, with a password.
            self.warnings.push(format!(
                "{}: DigestDB: the value is taken whole as the file's name, since a comment cannot follow a value",
                given.place
            ));
        }
    }

    fn question_truth(&mut self, option: &Opt, given: &Given) {
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
    fn check_concurrency(&mut self, values: &BTreeMap<&str, Value>) {
        let is_true = |key| values.get(key) == Some(&Value::Truth(true));
        if is_true("Threads") && is_true("Processes") {
            let place = self.place_of("Processes");
            self.problem(place, None, "You cannot use both processes and threads at the same time");
        }
        if let Some(Value::Number(number)) = values.get("PreFork")
            && (*number == 1 || *number < 0)
        {
            let place = self.place_of("PreFork");
            self.problem(place, None, "Pre-fork value cannot be lower than 2.");
        }
    }

    fn check_supported(&mut self, values: &BTreeMap<&str, Value>) {
        if let Some(Value::Text(engine)) = values.get("Engine")
            && !storage::engines().any(|known| known == engine)
        {
            let engines: Vec<&str> = storage::engines().collect();
            let (place, text) = (
                self.place_of("Engine"),
                format!("this version does not support the engine {engine} yet, only {}", engines.join(", ")),
            );
            self.problem(place, Some("Engine"), text);
        }
        if let Some(Value::Text(path)) = values.get("ForwardClientHomeDir")
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

    fn tell_what_has_no_effect(&mut self) {
        let given = |sentry: bool| {
            let options = OPTIONS.iter().filter(|option| option.effect == Effect::None);
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

    fn place_of(&self, key: &str) -> String {
        self.given.get(key).map_or_else(|| "the default".to_owned(), |given| given.place.clone())
    }
}

/// Whether something in a value looks like a comment behind it.
fn has_comment(text: &str) -> bool {
    text.match_indices(['#', ';']).any(|(at, _)| text[..at].ends_with(char::is_whitespace))
}

/// Whether an honoured option is a field of [`Settings`]; the others have been acted upon.
pub(super) fn is_a_field(key: &str) -> bool {
    !matches!(key, "check-config" | "ForwardClientHomeDir")
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
