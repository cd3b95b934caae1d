//! What the operator wants: defaults, then the config file, then the command line.
//!
//! Every problem is found before any is reported, each a line that names its place.

mod command_line;
mod ini;
pub mod table;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::command_line::CommandLine;
use self::ini::Document;
use self::table::{Effect, Kind, OPTIONS, Opt};
use self::value::Value;
use crate::access::Order;
use crate::storage;

/// The section of the config file that is the server's.
const SECTION: &str = "server";
/// The config file's name in the homedir.
const FILE: &str = "config";
/// The homedir of who has no home.
const SYSTEM_HOMEDIR: &str = "/etc/pyzor";

/// All settings, checked. What has no effect is not here.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The homedir, absolute.
    #[serde(rename = "homedir")]
    pub homedir: PathBuf,
    /// The UDP port; 0 is any free one.
    #[serde(rename = "Port")]
    pub port: u16,
    /// The address to listen on, or a host name.
    #[serde(rename = "ListenAddress")]
    pub listen_address: String,
    /// The name of the storage engine.
    #[serde(rename = "Engine")]
    pub engine: String,
    /// The database as the engine understands it. May hold a password: not to be shown.
    #[serde(rename = "DigestDB")]
    pub digest_db: String,
    /// The same as a file, for an engine that keeps one: absolute.
    #[serde(skip)]
    pub digest_db_path: PathBuf,
    /// After how many seconds without a change a record expires; 0 is never.
    #[serde(rename = "CleanupAge")]
    pub cleanup_age: u64,
    /// The accounts file.
    #[serde(rename = "PasswdFile")]
    pub passwd_file: PathBuf,
    /// The access file.
    #[serde(rename = "AccessFile")]
    pub access_file: PathBuf,
    /// Which line of the access file decides.
    #[serde(rename = "AccessOrder")]
    pub access_order: Order,
    /// Whether somebody chose that, so that it needs no warning.
    #[serde(skip)]
    pub access_order_explicit: bool,
    /// The pid file.
    #[serde(rename = "PidFile")]
    pub pid_file: PathBuf,
    /// The operator's log.
    #[serde(rename = "LogFile")]
    pub log_file: Option<PathBuf>,
    /// The usage log.
    #[serde(rename = "UsageLogFile")]
    pub usage_log_file: Option<PathBuf>,
    /// Where output goes in the background; none: stay in the foreground.
    #[serde(rename = "detach")]
    pub detach: Option<PathBuf>,
    /// By how much to raise the niceness.
    #[serde(rename = "nice")]
    pub nice: i32,
    /// Whether to log everything.
    #[serde(rename = "debug")]
    pub debug: bool,
    /// The size of the engine's connection pool; 0 leaves that to the engine.
    #[serde(rename = "DBConnections")]
    pub db_connections: u32,
    /// What the operator should look at, a line each.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// What is good to know, a line each, for the log.
    #[serde(skip)]
    pub notices: Vec<String>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Settings>),
    /// Check everything, and start nothing.
    CheckConfig(Box<Settings>),
    /// Print this and end.
    Print(String),
}

/// Why nothing can be done.
#[derive(Debug)]
pub enum Failure {
    /// The command line is misused; the text is to be printed as it is.
    Usage(String),
    /// The settings have problems.
    Configuration {
        /// All of them.
        problems: Vec<Problem>,
        /// What is to be looked at besides.
        warnings: Vec<String>,
    },
}

/// What is wrong with one setting: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    option: Option<String>,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(option) = &self.option {
            write!(f, "{option}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// What of the process the settings depend on.
pub struct Environment {
    /// The user's home.
    pub home: Option<OsString>,
    /// The working directory.
    pub working_directory: PathBuf,
    /// The homes of other users.
    pub home_of: fn(&str) -> Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            home: std::env::var_os("HOME"),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            home_of: |user| nix::unistd::User::from_name(user).ok().flatten().map(|user| user.dir),
        }
    }

    /// The path with `~` or `~user` at its beginning replaced, as far as that is known.
    fn expand(&self, path: &str) -> PathBuf {
        let Some(rest) = path.strip_prefix('~') else { return path.into() };
        let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
        let home = match user {
            "" => self.home.as_ref().map(PathBuf::from),
            user => (self.home_of)(user),
        };
        match home {
            Some(home) if below.is_empty() => home,
            Some(home) => home.join(below),
            None => path.into(),
        }
    }
}

/// Reads the command line (without the program's name) and the config file of the homedir.
///
/// # Errors
///
/// A misuse of the command line, or all problems of all settings.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Invocation, Failure> {
    let given = match command_line::parse(arguments) {
        Ok(CommandLine::Print(text)) => return Ok(Invocation::Print(text)),
        Ok(CommandLine::Run(given)) => given,
        Err(text) => return Err(Failure::Usage(text)),
    };
    let mut loader = Loader::new(environment, &given);
    loader.read_file();
    for (option, text) in given {
        // Existing command lines double the sign that introduces a reference in a file.
        let place = format!("--{}", option.flag.unwrap_or_default());
        loader.given.insert(option.key, Given { place, text: text.replace("%%", "%"), in_file: false });
    }
    loader.finish()
}

/// A value and who gave it.
#[derive(Clone, Debug)]
struct Given {
    place: String,
    text: String,
    in_file: bool,
}

struct Loader<'a> {
    environment: &'a Environment,
    homedir: PathBuf,
    given: BTreeMap<&'static str, Given>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    notices: Vec<String>,
}

impl<'a> Loader<'a> {
    fn new(environment: &'a Environment, given: &[(&'static Opt, String)]) -> Self {
        let named =
            given.iter().find(|(option, _)| option.key == "homedir").map(|(_, path)| PathBuf::from(path));
        let homedir = named.unwrap_or_else(|| match &environment.home {
            Some(home) if !home.is_empty() => Path::new(home).join(".pyzor"),
            _ => PathBuf::from(SYSTEM_HOMEDIR),
        });
        Self {
            environment,
            homedir: environment.working_directory.join(homedir),
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

    fn read_file(&mut self) {
        let path = self.homedir.join(FILE);
        let name = path.display().to_string();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return,
            Err(error) => return self.problem(name, None, format!("cannot read the file: {error}")),
        };
        match Document::parse(&text, &name) {
            Ok(document) => self.take_values(&document, &name),
            Err(problems) => self.problems.extend(problems),
        }
    }

    fn take_values(&mut self, document: &Document, name: &str) {
        let default = |key: &str| table::by_key(key).map(|option| option.default.to_owned());
        for value in document.section(SECTION) {
            let place = format!("{name}:{}", value.line);
            let Some(option) = table::by_key(&value.name) else {
                self.warnings.push(unknown(&place, &value.name));
                continue;
            };
            match document.interpolate(SECTION, &value.text, &default) {
                Ok(text) => {
                    self.given.insert(option.key, Given { place, text, in_file: true });
                }
                Err(text) => self.problem(place, Some(option.key), text),
            }
        }
    }

    fn finish(mut self) -> Result<Invocation, Failure> {
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
                Err(text) => self.problem(given.place, Some(option.key), text),
            }
        }
        self.check_concurrency(&values);
        self.check_supported(&values);
        self.tell_what_has_no_effect();
        if !self.problems.is_empty() {
            return Err(Failure::Configuration { problems: self.problems, warnings: self.warnings });
        }
        let check = values.get("check-config") == Some(&Value::Truth(true));
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
                Err(Failure::Configuration { problems: vec![problem], warnings: self.warnings })
            }
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
                if number < lowest || number > highest {
                    return Err(match highest {
                        highest if highest > i64::from(i32::MAX) => format!("{number} is less than {lowest}"),
                        highest => format!("{number} is not from {lowest} to {highest}"),
                    });
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
                if given.in_file && (text.contains(" #") || text.contains(" ;")) {
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

/// Whether an honoured option is a field of [`Settings`]; the others have been acted upon.
fn is_a_field(key: &str) -> bool {
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

#[cfg(test)]
mod tests;
