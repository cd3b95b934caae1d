//! The settings: defaults, overridden by the config file, overridden by the command line.
//!
//! One pass over the table of options turns every text into a field of [`Settings`]; the checks of several options
//! together follow. Every problem is found before any is reported; each is one line that names its place.

mod checks;
mod command_line;
mod contact;
mod environment;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod load;
mod metrics_address;
mod option;
mod table;
mod upstream;
mod value;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use self::command_line::ServerCommand;
pub(crate) use self::contact::{ContactError, ServerContact, contact};
pub(crate) use self::environment::Environment;
use self::forwarding::ForwardingOptions;
use self::load::SettingsLoader;
pub(crate) use self::metrics_address::MetricsAddress;
use self::upstream::UpstreamOptions;
use crate::access::{AccessOrder, AccessSources};
use crate::forward::{ForwardFrom, ForwardSettings};
use crate::limits::Networks;
use crate::remotes::DirectorySource;
use crate::upstream::UpstreamSettings;
use pyzor_home::problem::ConfigProblem;
use pyzor_wire::forward_id::ForwardOrigin;

/// The server's section of the config file.
const SECTION: &str = "server";

/// All settings, checked. The defaults of the options are in the table, not in [`Default`].
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The homedir, absolute.
    pub(crate) homedir: PathBuf,
    /// The UDP port; 0 is any free one.
    pub(crate) port: u16,
    /// Whether the operator chose the port.
    pub(crate) port_is_given: bool,
    /// The address to listen on, or a host name.
    pub(crate) listen_address: String,
    /// Whether the operator chose the address.
    pub(crate) listen_address_is_given: bool,
    /// The size of the kernel's buffer for replies, in bytes.
    pub(crate) send_buffer: usize,
    /// Whether other processes may share the port.
    pub(crate) reuse_port: bool,
    /// The name of the storage engine.
    pub(crate) engine: String,
    /// The database in the engine's notation. May hold a password: never log it.
    pub(crate) digest_db: String,
    /// The database as an absolute path, for engines that store it in a file.
    pub(crate) digest_db_path: PathBuf,
    /// The age at which an unchanged record expires, in seconds; 0 is never.
    pub(crate) cleanup_age: u64,
    /// The accounts file.
    pub(crate) passwd_file: PathBuf,
    pub(crate) access_file: PathBuf,
    /// The matching line of the access file that decides: the first or the last.
    pub(crate) access_order: AccessOrder,
    /// Whether the operator chose the order, which then needs no warning.
    pub(crate) access_order_explicit: bool,
    pub(crate) pid_file: PathBuf,
    /// The socket for `pyzorctl`.
    pub(crate) control_socket: Option<PathBuf>,
    /// Where the metrics are served.
    pub(crate) metrics_address: Option<MetricsAddress>,
    /// The operator log.
    pub(crate) log_file: Option<PathBuf>,
    /// The usage log.
    pub(crate) usage_log_file: Option<PathBuf>,
    /// The user to switch to; empty: keep the current one.
    pub(crate) user: String,
    /// The group to switch to; empty: the user's own.
    pub(crate) group: String,
    /// Whether to drop every privilege that the server does not need.
    pub(crate) confine: bool,
    /// The networks whose datagrams are accepted; empty: all.
    pub(crate) allow_networks: Networks,
    /// The networks whose datagrams are dropped, even if allowed.
    pub(crate) deny_networks: Networks,
    /// The requests accepted per second and source prefix; 0 is any number.
    pub(crate) rate_limit: u32,
    /// The refusals sent per second and source prefix; 0 is any number.
    pub(crate) rate_limit_errors: u32,
    /// The anonymous reports and whitelistings accepted per second and source prefix; 0 is any number.
    pub(crate) rate_limit_writes: u32,
    /// The size of a burst, in seconds of each rate.
    pub(crate) rate_limit_burst: u32,
    /// The networks without rate limits.
    pub(crate) rate_limit_exempt: Networks,
    /// Whether requests beyond a rate limit are only logged.
    pub(crate) rate_limit_log_only: bool,
    /// The length of a source prefix of IPv4, in bits.
    pub(crate) rate_limit_prefix_v4: u8,
    /// The length of a source prefix of IPv6, in bits.
    pub(crate) rate_limit_prefix_v6: u8,
    /// The number of source prefixes that are remembered.
    pub(crate) rate_limit_table: usize,
    /// Whether copies of a counted signed request are not counted again.
    pub(crate) replay_guard: bool,
    /// The minimum number of signatures that the replay guard remembers.
    pub(crate) replay_guard_size: usize,
    /// The file for all output in the background; none: stay in the foreground.
    pub(crate) detach: Option<PathBuf>,
    /// The increment of the niceness.
    pub(crate) nice: i32,
    /// Whether debug messages are logged.
    pub(crate) debug: bool,
    /// The size of the engine's connection pool; 0 is the engine's default.
    pub(crate) db_connections: u32,
    /// Forwarding, if it is on.
    pub(crate) forward: Option<ForwardSettings>,
    /// Second opinions on checks, if they are on.
    pub(crate) upstream: Option<UpstreamSettings>,
    /// The senders whose forwarded requests are passed on although they have no id.
    pub(crate) forward_from: ForwardFrom,
    /// The origin that several processes on one database share, also if this one does not forward; none: the one in the
    /// homedir.
    pub(crate) forward_origin: Option<ForwardOrigin>,
    /// Warnings for the operator, one line each.
    pub(crate) warnings: Vec<String>,
    /// Notices for the log, one line each.
    pub(crate) notices: Vec<String>,
    check_config: bool,
    recover: bool,
    forwarding: ForwardingOptions,
    upstream_options: UpstreamOptions,
    // Options without effect that checks refer to.
    threads: bool,
    processes: bool,
    pre_fork: i64,
}

/// The files that `--check-config` reads besides the config file.
#[derive(Debug)]
pub(crate) struct CheckedSources {
    pub(crate) access: AccessSources,
    /// The homedir of a client, if forwarding is on.
    pub(crate) forward: Option<DirectorySource>,
    /// The homedir of a client, if second opinions are on.
    pub(crate) upstream: Option<DirectorySource>,
    /// The homedir, if the origin of forwarded requests is there.
    pub(crate) origin: Option<PathBuf>,
    /// The address of the server, if the settings tell it.
    pub(crate) listening: Option<SocketAddr>,
}

impl Settings {
    /// The files that `--check-config` reads besides the config file.
    pub(crate) fn checked_sources(&self) -> CheckedSources {
        let forward = self.forward.as_ref().map(|forward| forward.source.clone());
        let has_origin_of_homedir = forward.is_some() && self.forward_origin.is_none();
        CheckedSources {
            access: self.access_sources(),
            forward,
            upstream: self.upstream.as_ref().map(|upstream| upstream.source.clone()),
            origin: has_origin_of_homedir.then(|| self.homedir.clone()),
            listening: self.listening(),
        }
    }

    /// Returns the address to listen on, unless it is that of a name, or the port is any free one.
    fn listening(&self) -> Option<SocketAddr> {
        let ip = match self.listen_address.as_str() {
            "" => Ipv4Addr::UNSPECIFIED.into(),
            text => text.parse::<IpAddr>().ok()?,
        };
        (self.port > 0).then_some(SocketAddr::new(ip, self.port))
    }

    /// The files from which accounts and rights are loaded.
    pub(crate) fn access_sources(&self) -> AccessSources {
        AccessSources {
            passwd: self.passwd_file.clone(),
            access: self.access_file.clone(),
            order: self.access_order,
            order_chosen: self.access_order_explicit,
            forward_from: if self.forward.is_some() { self.forward_from.accounts() } else { Vec::new() },
        }
    }
}

/// The action that the command line asks for.
#[derive(Debug)]
pub(crate) enum ServerInvocation {
    /// Serve.
    Serve(Box<Settings>),
    /// Check the configuration and exit.
    CheckConfig(Box<Settings>),
    /// Repair the database and exit.
    Recover(Box<Settings>),
    /// Print this text and exit.
    Print(String),
}

/// The reason why the settings cannot be used.
#[derive(Debug)]
pub(crate) enum SettingsError {
    /// A misuse of the command line: the complete text to print.
    Usage(String),
    /// Bad settings.
    Configuration {
        /// All problems, in the order in which they were found.
        problems: Vec<ConfigProblem>,
        /// All warnings, one line each.
        warnings: Vec<String>,
        /// With `--check-config`, the files whose problems are reported as well. A bad file name is replaced by the
        /// default.
        check: Option<Box<CheckedSources>>,
        /// Whether a later start may succeed without an operator.
        may_pass: bool,
    },
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
        Ok(ServerCommand::Print(text)) => return Ok(ServerInvocation::Print(text)),
        Ok(ServerCommand::Run(given)) => given,
        Err(text) => return Err(SettingsError::Usage(text)),
    };
    let mut loader = SettingsLoader::new(environment, given);
    loader.read();
    loader.finish()
}

#[cfg(test)]
mod tests;
