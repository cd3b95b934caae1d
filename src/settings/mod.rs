//! What the operator wants: defaults, then the config file, then the command line.
//!
//! Every problem is found before any is reported, each a line that names its place.

mod checks;
mod command_line;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
pub(crate) mod table;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{Uid, User};
use serde::Deserialize;

use self::command_line::CommandLine;
use self::load::SettingsLoader;
use crate::access::{AccessOrder, AccessSources};
use crate::limits::Networks;
use pyzor_home::problem::ConfigProblem;

/// The section of the config file that is the server's.
const SECTION: &str = "server";

/// All settings, checked. What has no effect is not here.
#[derive(Debug, Deserialize)]
pub(crate) struct Settings {
    /// The homedir, absolute.
    #[serde(rename = "homedir")]
    pub(crate) homedir: PathBuf,
    /// The UDP port; 0 is any free one.
    #[serde(rename = "Port")]
    pub(crate) port: u16,
    /// The address to listen on, or a host name.
    #[serde(rename = "ListenAddress")]
    pub(crate) listen_address: String,
    /// How many bytes of replies the kernel is asked to hold until they are sent.
    #[serde(rename = "SendBuffer")]
    pub(crate) send_buffer: usize,
    /// Whether other processes may share the port.
    #[serde(rename = "ReusePort")]
    pub(crate) reuse_port: bool,
    /// The name of the storage engine.
    #[serde(rename = "Engine")]
    pub(crate) engine: String,
    /// The database as the engine understands it. May hold a password: not to be shown.
    #[serde(rename = "DigestDB")]
    pub(crate) digest_db: String,
    /// The database as a file, for an engine that keeps one: absolute.
    #[serde(skip)]
    pub(crate) digest_db_path: PathBuf,
    /// After how many seconds without a change a record expires; 0 is never.
    #[serde(rename = "CleanupAge")]
    pub(crate) cleanup_age: u64,
    /// The accounts file.
    #[serde(rename = "PasswdFile")]
    pub(crate) passwd_file: PathBuf,
    /// The access file.
    #[serde(rename = "AccessFile")]
    pub(crate) access_file: PathBuf,
    /// Which line of the access file decides.
    #[serde(rename = "AccessOrder")]
    pub(crate) access_order: AccessOrder,
    /// Whether the operator chose that, so that it needs no warning.
    #[serde(skip)]
    pub(crate) access_order_explicit: bool,
    /// The pid file.
    #[serde(rename = "PidFile")]
    pub(crate) pid_file: PathBuf,
    /// The operator's log.
    #[serde(rename = "LogFile")]
    pub(crate) log_file: Option<PathBuf>,
    /// The usage log.
    #[serde(rename = "UsageLogFile")]
    pub(crate) usage_log_file: Option<PathBuf>,
    /// The user to become; empty: stay who started it.
    #[serde(rename = "User")]
    pub(crate) user: String,
    /// The group to have then; empty: the user's own.
    #[serde(rename = "Group")]
    pub(crate) group: String,
    /// Whether to give up what the server does not need.
    #[serde(rename = "Confine")]
    pub(crate) confine: bool,
    /// The networks whose datagrams are accepted; none: all.
    #[serde(rename = "AllowNetworks")]
    pub(crate) allow_networks: Networks,
    /// The networks whose datagrams are refused, even if allowed.
    #[serde(rename = "DenyNetworks")]
    pub(crate) deny_networks: Networks,
    /// How many requests a second and source prefix; 0 is any number.
    #[serde(rename = "RateLimit")]
    pub(crate) rate_limit: u32,
    /// How many refusals a second and source prefix; 0 is any number.
    #[serde(rename = "RateLimitErrors")]
    pub(crate) rate_limit_errors: u32,
    /// How many anonymous changes a second and source prefix; 0 is any number.
    #[serde(rename = "RateLimitWrites")]
    pub(crate) rate_limit_writes: u32,
    /// How many seconds' worth of a rate may come at once.
    #[serde(rename = "RateLimitBurst")]
    pub(crate) rate_limit_burst: u32,
    /// The networks that no rate limits.
    #[serde(rename = "RateLimitExempt")]
    pub(crate) rate_limit_exempt: Networks,
    /// Whether what exceeds a rate is only reported.
    #[serde(rename = "RateLimitLogOnly")]
    pub(crate) rate_limit_log_only: bool,
    /// How many bits of an IPv4 address make a source prefix.
    #[serde(rename = "RateLimitPrefixV4")]
    pub(crate) rate_limit_prefix_v4: u8,
    /// How many bits of an IPv6 address make a source prefix.
    #[serde(rename = "RateLimitPrefixV6")]
    pub(crate) rate_limit_prefix_v6: u8,
    /// How many source prefixes are remembered.
    #[serde(rename = "RateLimitTable")]
    pub(crate) rate_limit_table: usize,
    /// Whether a copy of a signed request that was counted is not counted again.
    #[serde(rename = "ReplayGuard")]
    pub(crate) replay_guard: bool,
    /// How many signatures are remembered for that, at least.
    #[serde(rename = "ReplayGuardSize")]
    pub(crate) replay_guard_size: usize,
    /// Where output goes in the background; none: stay in the foreground.
    #[serde(rename = "detach")]
    pub(crate) detach: Option<PathBuf>,
    /// By how much to raise the niceness.
    #[serde(rename = "nice")]
    pub(crate) nice: i32,
    /// Whether to log everything.
    #[serde(rename = "debug")]
    pub(crate) debug: bool,
    /// The size of the engine's connection pool; 0 leaves that to the engine.
    #[serde(rename = "DBConnections")]
    pub(crate) db_connections: u32,
    /// What the operator should look at, a line each.
    #[serde(skip)]
    pub(crate) warnings: Vec<String>,
    /// What is good to know, a line each, for the log.
    #[serde(skip)]
    pub(crate) notices: Vec<String>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum ServerInvocation {
    /// Serve.
    Serve(Box<Settings>),
    /// Check everything, and start nothing.
    CheckConfig(Box<Settings>),
    /// Repair the database, and start nothing.
    Recover(Box<Settings>),
    /// Print this and end.
    Print(String),
}

/// Why nothing can be done.
#[derive(Debug)]
pub(crate) enum SettingsError {
    /// The command line is misused; the text is to be printed as it is.
    Usage(String),
    /// The settings have problems.
    Configuration {
        /// All of them.
        problems: Vec<ConfigProblem>,
        /// What is to be looked at besides.
        warnings: Vec<String>,
        /// With `--check-config`, where accounts and rights would come from, as far as that is
        /// known, so that their problems can be reported as well.
        check: Option<AccessSources>,
    },
}

/// What of the process the settings depend on.
pub(crate) struct Environment {
    /// The user's home.
    pub(crate) home: Option<OsString>,
    /// The working directory.
    pub(crate) working_directory: PathBuf,
    /// The homes of other users; of the empty name, of this one.
    pub(crate) home_of: fn(&str) -> Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            home: std::env::var_os("HOME"),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            home_of: |user| {
                let user = match user {
                    "" => User::from_uid(Uid::effective()),
                    user => User::from_name(user),
                };
                user.ok().flatten().map(|user| user.dir)
            },
        }
    }

    /// The path with `~` or `~user` at its beginning replaced, as far as that is known.
    pub(crate) fn expand(&self, path: &str) -> PathBuf {
        let Some(rest) = path.strip_prefix('~') else { return path.into() };
        let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
        let home = match user {
            // As in Python, an empty HOME is the root of the file system.
            "" if self.home.as_ref().is_some_and(|home| home.is_empty()) => Some("/".into()),
            // Without HOME, as for a service, the user's own home serves.
            "" => self.home.as_ref().map(PathBuf::from).or_else(|| (self.home_of)("")),
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
pub(crate) fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<ServerInvocation, SettingsError> {
    let given = match command_line::parse(arguments) {
        Ok(CommandLine::Print(text)) => return Ok(ServerInvocation::Print(text)),
        Ok(CommandLine::Run(given)) => given,
        Err(text) => return Err(SettingsError::Usage(text)),
    };
    let mut loader = SettingsLoader::new(environment, given);
    loader.read();
    loader.finish()
}

#[cfg(test)]
mod tests;
