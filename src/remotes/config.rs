//! The config file of a client: the names of the other files, and the timeout.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::User;

use super::DirectorySource;
use super::error::DirectoryError;
use crate::os::open;
use pyzor_home::ini::IniDocument;
use pyzor_home::loggable::{may_hold_key, quoted};
use pyzor_home::problem::ConfigProblem;

/// The name of the config file.
pub(super) const FILE: &str = "config";
/// The section of a client.
const SECTION: &str = "client";
/// The options that are read, with their defaults. Everything else concerns clients only.
const DEFAULTS: [(&str, &str); 4] =
    [("ServersFile", "servers"), ("AccountsFile", "accounts"), ("LogFile", ""), ("Timeout", "5")];
/// The timeouts that make sense, in seconds.
const TIMEOUTS: (i64, i64) = (1, 60);

/// What the config file of a client says about its servers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientConfig {
    pub(super) servers: PathBuf,
    /// The accounts file; none: all requests are anonymous.
    pub(super) accounts: Option<PathBuf>,
    /// Whether the config file names the accounts file.
    pub(super) accounts_are_named: bool,
    pub(super) timeout: Duration,
}

impl ClientConfig {
    /// Reads the config file of a directory. A file that does not exist has the defaults.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is a symbolic link to nothing, or has problems.
    pub(super) fn load(source: &DirectorySource, warnings: &mut Vec<String>) -> Result<Self, DirectoryError> {
        let path = source.path.join(FILE);
        let text = match open::read(&path) {
            Ok(content) => content.text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                return Err(DirectoryError::dangling(&path, &error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(DirectoryError::unreadable(&path, &error)),
        };
        Self::parse(&text, source, warnings)
            .map_err(|problems| DirectoryError::lasting(problems.iter().map(ToString::to_string).collect()))
    }

    /// Reads the text of a config file.
    ///
    /// # Errors
    ///
    /// All problems of the text.
    pub(super) fn parse(
        text: &[u8],
        source: &DirectorySource,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Vec<ConfigProblem>> {
        let name = source.path.join(FILE).display().to_string();
        let document = IniDocument::parse(text, &name)?;
        if let Some(other) = document.other_case_of(SECTION) {
            warnings.push(format!("{name}: the section [{other}] is ignored: clients read [{SECTION}]"));
        }
        let mut values = Values { document: &document, name, warnings, problems: Vec::new() };
        let config = values.read(source);
        match values.problems.is_empty() {
            true => Ok(config),
            false => Err(values.problems),
        }
    }
}

/// The value of an option, and its place.
struct Value {
    text: String,
    place: String,
}

struct Values<'a> {
    document: &'a IniDocument,
    name: String,
    warnings: &'a mut Vec<String>,
    problems: Vec<ConfigProblem>,
}

impl Values<'_> {
    fn read(&mut self, source: &DirectorySource) -> ClientConfig {
        if let Some(value) = self.value("LogFile").filter(|value| !value.text.is_empty()) {
            self.warnings
                .push(format!("{}: LogFile: ignored: the log of pyzord has these messages", value.place));
        }
        let accounts = self.value("AccountsFile");
        let accounts_are_named = accounts.is_some();
        ClientConfig {
            servers: self.file("ServersFile", "servers", source),
            accounts: match accounts.is_some_and(|value| value.text.is_empty()) {
                true => None,
                false => Some(self.file("AccountsFile", "accounts", source)),
            },
            accounts_are_named,
            timeout: self.timeout(),
        }
    }

    /// Returns a value that the file sets. Reports a bad reference.
    fn value(&mut self, key: &str) -> Option<Value> {
        let values = self.document.section(SECTION);
        let value = values.iter().find(|value| value.name.eq_ignore_ascii_case(key))?;
        let place = format!("{}:{}", self.name, value.line);
        match self.document.interpolate(SECTION, &value.text, &default) {
            Ok(text) => Some(Value { text, place }),
            Err(text) => {
                // A message names the reference.
                let text = match may_hold_key(&text) {
                    true => "a %(name)s reference is unknown or circular: for a plain % write %%".to_owned(),
                    false => text,
                };
                let problem = ConfigProblem { place, option: Some(key.to_owned()), text };
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
                None
            }
        }
    }

    fn file(&mut self, key: &str, default: &str, source: &DirectorySource) -> PathBuf {
        let Some(value) = self.value(key) else { return source.path.join(default) };
        let mut problem = |text: &str| {
            let (place, option) = (value.place.clone(), Some(key.to_owned()));
            self.problems.push(ConfigProblem { place, option, text: text.to_owned() });
        };
        match value.text.as_str() {
            "" => problem("the name of the file is empty: remove the option for the default"),
            text if text.contains('\0') => problem("the name of the file contains a zero byte"),
            _ => {}
        }
        let text = &value.text;
        let path = source.path.join(expand(text, source.home.as_deref()));
        if may_hold_key(text) && !text.contains('\0') && !path.exists() {
            // Messages about the file would contain its name.
            problem(
                "no such file, and the value may hold a key: write the name of the file here, and keys into it",
            );
            return path;
        }
        if text.match_indices(['#', ';']).any(|(at, _)| text[..at].ends_with(char::is_whitespace)) {
            self.warnings.push(format!(
                "{}: {key}: the file name {} includes a comment: put the comment on a line of its own",
                value.place,
                quoted(text)
            ));
        }
        path
    }

    fn timeout(&mut self) -> Duration {
        let key = "Timeout";
        let value = self
            .value(key)
            .unwrap_or_else(|| Value { text: default(key).unwrap_or_default(), place: String::new() });
        let Some(seconds) = pyzor_wire::number::integer(value.text.as_bytes()) else {
            let text = format!("{} is not a whole number", quoted(&value.text));
            self.problems.push(ConfigProblem { place: value.place, option: Some(key.to_owned()), text });
            return Duration::from_secs(1);
        };
        let used = seconds.clamp(TIMEOUTS.0, TIMEOUTS.1);
        if used != seconds {
            self.warnings
                .push(format!("{}: {key}: {seconds} seconds make no sense: using {used}", value.place));
        }
        Duration::from_secs(used.unsigned_abs())
    }
}

fn default(key: &str) -> Option<String> {
    DEFAULTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, text)| (*text).to_owned())
}

/// Replaces `~` or `~user` at the beginning of a path, if the home directory is known.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    let Some(rest) = path.strip_prefix('~') else { return path.into() };
    let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
    let home = match user {
        "" => home.map(Path::to_owned),
        user => User::from_name(user).ok().flatten().map(|user| user.dir),
    };
    home.map_or_else(|| path.into(), |home| home.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Result<ClientConfig, Vec<String>>, Vec<String>) {
        let source = DirectorySource { path: "/d".into(), home: Some("/h".into()) };
        let mut warnings = Vec::new();
        let parsed = ClientConfig::parse(text.as_bytes(), &source, &mut warnings);
        (parsed.map_err(|problems| problems.iter().map(ToString::to_string).collect()), warnings)
    }

    #[test]
    fn only_the_options_about_servers_are_read() {
        let other = "[server]\nPort = x\n[client]\nReportThreshold = abc\nStyle = %(none)s\nLogFile =\n";
        for text in ["", other] {
            let defaults = ClientConfig {
                servers: "/d/servers".into(),
                accounts: Some("/d/accounts".into()),
                accounts_are_named: false,
                timeout: Duration::from_secs(5),
            };
            assert_eq!(parse(text), (Ok(defaults), Vec::new()), "{text}");
        }
        let (config, warnings) = parse(
            "[client]\nserversfile = ~/s\nAccountsFile: %(ServersFile)s.a\nTimeout = +1_0\nLogFile = log\n",
        );
        let config = config.unwrap();
        assert_eq!((config.servers, config.accounts), ("/h/s".into(), Some("/h/s.a".into())));
        assert_eq!((config.accounts_are_named, config.timeout), (true, Duration::from_secs(10)));
        assert_eq!(warnings, ["/d/config:5: LogFile: ignored: the log of pyzord has these messages"]);
        assert_eq!(parse("[client]\nAccountsFile =\n").0.unwrap().accounts, None);
    }

    #[test]
    fn all_problems_are_reported_with_their_places() {
        let (config, _) = parse("[client]\nServersFile =\nAccountsFile = %(no)s\nTimeout = 5 # s\n");
        assert_eq!(
            config.unwrap_err(),
            [
                "/d/config:3: AccountsFile: %(no)s refers to an unknown option: for a plain % write %%",
                "/d/config:2: ServersFile: the name of the file is empty: remove the option for the default",
                "/d/config:4: Timeout: '5 # s' is not a whole number",
            ]
        );
        assert_eq!(parse("x\n").0.unwrap_err().len(), 1);
    }

    #[test]
    fn messages_contain_no_key() {
        const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";
        for line in [
            "Timeout = KEY",
            "Timeout = %(KEY)s",
            "ServersFile = %(x,KEY)s",
            "AccountsFile = a #KEY",
            "ServersFile = KEY",
            "AccountsFile = host : port : user : ,KEY",
            "AccountsFile = /d/accounts:KEY/x",
        ] {
            let text = format!("[client]\n{}\n", line.replace("KEY", KEY));
            let (config, mut texts) = parse(&text);
            texts.extend(config.err().into_iter().flatten());
            assert_eq!(texts.len(), 1, "{texts:?}");
            assert!(texts[0].starts_with("/d/config:2: ") && !texts[0].contains(KEY), "{texts:?}");
        }
    }

    #[test]
    fn questionable_values_cause_warnings() {
        let (config, warnings) = parse("[Client]\n[client]\nServersFile = s # mine\nTimeout = 0\n");
        assert_eq!(config.unwrap().timeout, Duration::from_secs(1));
        assert_eq!(
            warnings,
            [
                "/d/config: the section [Client] is ignored: clients read [client]",
                "/d/config:3: ServersFile: the file name 's # mine' includes a comment: put the comment on a line of its own",
                "/d/config:4: Timeout: 0 seconds make no sense: using 1",
            ]
        );
    }
}
