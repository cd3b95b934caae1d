//! The table of all options. The command line, the config file, the defaults and the help are made from it, and tests
//! check `config.example` and the manual pages against it.

use std::path::PathBuf;

use super::Settings;
use crate::access::AccessOrder;
use crate::limits::Networks;
use crate::storage;

/// Stores an option's checked value in the settings.
type Setter<T> = fn(&mut Settings, T);

/// The type of an option's value, and the field of [`Settings`] that holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OptionKind {
    /// A command-line option without a value.
    Switch(Setter<bool>),
    /// Any text.
    Text(Setter<String>),
    /// The path of a file: relative to the homedir, with `~` and `~user` expanded. Empty: none.
    File(Setter<PathBuf>),
    /// A path relative to the working directory. Empty: none.
    Path(Setter<PathBuf>),
    /// A whole number between two bounds, inclusive. The setter returns whether the number fits the field.
    Number(i64, i64, NumberCheck, fn(&mut Settings, i64) -> bool),
    /// `true` in any case; everything else is false.
    Truth(Setter<bool>),
    /// `true` or `false` in any case; everything else is refused.
    StrictTruth(Setter<bool>),
    /// A list of networks.
    Networks(Setter<Networks>),
    /// One of these words.
    Word(&'static [&'static str], Setter<&'static str>),
}

/// The stage that refuses a value that is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberCheck {
    /// The reader of the command line, which also accepts hexadecimal, octal and binary numbers.
    OnCommandLine,
    /// The checks of all settings.
    Later,
}

/// The effect of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionEffect {
    /// The option does what its help says.
    Honoured,
    /// None, because one loop serves all requests. Deployed configurations have the option.
    NoConcurrency,
    /// None, because nothing is ever sent to Sentry. Deployed configurations have the option.
    NoSentry,
}

/// The consequence of a bad value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadValue {
    /// The start is refused.
    Refused,
    /// A warning, and the default: the Python server never reads the value.
    Default,
    /// With `Threads` the start is refused; without, the Python server does not read the value: a warning, and the
    /// default.
    DefaultWithoutThreads,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerOption {
    /// The name in the config file; the flag of an option that only the command line has.
    pub(crate) key: &'static str,
    /// The name on the command line, without the dashes. Options without one are in the config file only.
    pub(crate) flag: Option<&'static str>,
    /// The short name on the command line.
    pub(crate) short: Option<char>,
    pub(crate) kind: OptionKind,
    /// The default, as text of the config file.
    pub(crate) default: &'static str,
    help: &'static str,
    pub(crate) effect: OptionEffect,
    pub(crate) bad_value: BadValue,
    /// Whether the value may hold a password.
    pub(crate) is_secret: bool,
    /// Whether the Python server has the option, so that it may be abbreviated on the command line.
    pub(crate) established: bool,
    /// Whether the config file may set the option.
    pub(crate) in_file: bool,
}

use NumberCheck::{Later, OnCommandLine};
use OptionKind::{File, Networks as NetworkList, Number, Path, StrictTruth, Switch, Text, Truth, Word};

const COUNT: i64 = i32::MAX as i64;
const NICE: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
/// The longest expiry age that fits a time stamp, in seconds.
const LONGEST_AGE: i64 = i64::MAX / 1_000_000;

/// An option that the Python server has, too.
const fn established(
    key: &'static str,
    kind: OptionKind,
    default: &'static str,
    help: &'static str,
) -> ServerOption {
    ServerOption {
        key,
        flag: None,
        short: None,
        kind,
        default,
        help,
        effect: OptionEffect::Honoured,
        bad_value: BadValue::Refused,
        is_secret: false,
        established: true,
        in_file: true,
    }
}

/// An option that the Python server does not have.
const fn recent(
    key: &'static str,
    kind: OptionKind,
    default: &'static str,
    help: &'static str,
) -> ServerOption {
    ServerOption { established: false, ..established(key, kind, default, help) }
}

impl ServerOption {
    /// The line of help, in which `ENGINES` stands for the names of all engines.
    pub(crate) fn help(&self) -> String {
        self.help.replace("ENGINES", &storage::listed())
    }

    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn effect(self, effect: OptionEffect) -> Self {
        Self { effect, ..self }
    }

    const fn bad_value(self, bad_value: BadValue) -> Self {
        Self { bad_value, ..self }
    }

    const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    const fn command_line_only(self) -> Self {
        Self { in_file: false, flag: Some(self.key), ..self }
    }
}

/// Stores a number, if its field can hold it.
fn fit<T: TryFrom<i64>>(field: &mut T, number: i64) -> bool {
    T::try_from(number).map(|number| *field = number).is_ok()
}

/// A path as the value of an optional field.
fn non_empty(path: PathBuf) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Every option, in the order of the documentation.
#[rustfmt::skip]
pub(crate) const OPTIONS: &[ServerOption] = &[
    established("homedir", Path(|_, _| {}), "",
        "the folder of config, database, accounts and pid file (default: ~/.pyzor, or /etc/pyzor without HOME)").command_line_only(),
    established("Port", Number(0, 65_535, OnCommandLine, |s, n| fit(&mut s.port, n)), "24441",
        "the UDP port to listen on; 0: any free one").flag("port").short('p'),
    established("ListenAddress", Text(|s, text| s.listen_address = text), "0.0.0.0",
        "the address to listen on; :: serves IPv6 and IPv4").flag("address").short('a'),
    recent("SendBuffer", Number(4096, 1_073_741_823, Later, |s, n| fit(&mut s.send_buffer, n)), "4194304",
        "how many bytes of replies the kernel is asked to hold until they are sent"),
    recent("ReusePort", Truth(|s, truth| s.reuse_port = truth), "False",
        "share the port with other processes of this option, each of which gets some of the requests"),
    established("Engine", Word(&storage::NAMES, |s, name| s.engine = name.to_owned()), "gdbm",
        "the storage engine: ENGINES").flag("database-engine").short('e'),
    established("DigestDB", Text(|s, text| s.digest_db = text), "pyzord.db",
        "the database, in the engine's form; for gdbm a file, for the others host,port,password,database or host,user,password,database,table").flag("dsn").secret(),
    established("CleanupAge", Number(0, LONGEST_AGE, Later, |s, n| fit(&mut s.cleanup_age, n)), "10368000",
        "seconds after the last change when a record expires; 0: never").flag("cleanup-age"),
    established("PasswdFile", File(|s, path| s.passwd_file = path), "pyzord.passwd",
        "the accounts file").flag("password-file"),
    established("AccessFile", File(|s, path| s.access_file = path), "pyzord.access",
        "the access file").flag("access-file"),
    recent("AccessOrder", Word(&AccessOrder::NAMES, |s, name| s.access_order = AccessOrder::named(name)), "first",
        "which matching line of the access file decides: first, as documented, or last, as in the Python server").flag("access-order"),
    recent("User", Text(|s, text| s.user = text), "",
        "the user to become once the port is bound, when started as root").flag("user"),
    recent("Group", Text(|s, text| s.group = text), "",
        "the group to have then (default: the user's own)").flag("group"),
    recent("Confine", StrictTruth(|s, truth| s.confine = truth), "True",
        "give up, as far as the kernel offers that, whatever the server does not need"),
    recent("AllowNetworks", NetworkList(|s, networks| s.allow_networks = networks), "",
        "the networks that are heard; none: all"),
    recent("DenyNetworks", NetworkList(|s, networks| s.deny_networks = networks), "",
        "the networks that are not heard, even if allowed"),
    recent("RateLimit", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit, n)), "0",
        "how many requests a second and source prefix; 0: any number"),
    recent("RateLimitErrors", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit_errors, n)), "0",
        "how many refusals a second and source prefix; 0: any number"),
    recent("RateLimitWrites", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit_writes, n)), "0",
        "how many anonymous reports and whitelistings a second and source prefix; 0: any number"),
    recent("RateLimitBurst", Number(1, 3600, Later, |s, n| fit(&mut s.rate_limit_burst, n)), "10",
        "how many seconds' worth of a rate may come at once"),
    recent("RateLimitExempt", NetworkList(|s, networks| s.rate_limit_exempt = networks), "",
        "the networks that no rate limits"),
    recent("RateLimitLogOnly", Truth(|s, truth| s.rate_limit_log_only = truth), "False",
        "answer what exceeds a rate, too, and only tell of it"),
    recent("RateLimitPrefixV4", Number(8, 32, Later, |s, n| fit(&mut s.rate_limit_prefix_v4, n)), "24",
        "how many bits of an IPv4 address make a source prefix"),
    recent("RateLimitPrefixV6", Number(16, 64, Later, |s, n| fit(&mut s.rate_limit_prefix_v6, n)), "56",
        "how many bits of an IPv6 address make a source prefix"),
    recent("RateLimitTable", Number(1024, 16_777_216, Later, |s, n| fit(&mut s.rate_limit_table, n)), "65536",
        "how many source prefixes are remembered, of 48 bytes each"),
    recent("ReplayGuard", Truth(|s, truth| s.replay_guard = truth), "False",
        "count a signed report or whitelisting once only, however often a copy of it arrives"),
    recent("ReplayGuardSize", Number(1000, 100_000_000, Later, |s, n| fit(&mut s.replay_guard_size, n)), "450000",
        "how many signatures ReplayGuard remembers at least, of 50 bytes each"),
    established("PidFile", File(|s, path| s.pid_file = path), "pyzord.pid",
        "the pid file, written with --detach").flag("pid-file"),
    established("LogFile", File(|s, path| s.log_file = non_empty(path)), "",
        "the operator's log").flag("log-file"),
    established("UsageLogFile", File(|s, path| s.usage_log_file = non_empty(path)), "",
        "the log of all requests").flag("usage-log-file"),
    established("detach", Path(|s, path| s.detach = non_empty(path)), "",
        "go into the background, with all output to this file").command_line_only(),
    established("nice", Number(NICE.0, NICE.1, OnCommandLine, |s, n| fit(&mut s.nice, n)), "0",
        "raise the niceness by this much").command_line_only().short('n'),
    established("debug", Switch(|s, is_given| s.debug = is_given), "",
        "log everything, also to stderr").command_line_only().short('d'),
    recent("check-config", Switch(|s, is_given| s.check_config = is_given), "",
        "check configuration, accounts and access file, report every problem, and start nothing").command_line_only(),
    recent("recover", Switch(|s, is_given| s.recover = is_given), "",
        "repair a damaged gdbm database, keep the file as it was, and start nothing").command_line_only(),
    established("DBConnections", Number(0, COUNT, OnCommandLine, |s, n| fit(&mut s.db_connections, n)), "0",
        "the size of mysql's connection pool; 0: a sensible one").flag("db-connections").bad_value(BadValue::DefaultWithoutThreads),
    established("ForwardClientHomeDir", Path(|s, path| s.forward_client_homedir = non_empty(path)), "",
        "a client's homedir whose servers get every report too (not supported yet)").flag("forward-client-homedir"),
    established("Threads", Truth(|s, truth| s.threads = truth), "False", "no effect")
        .flag("threads").effect(OptionEffect::NoConcurrency),
    established("MaxThreads", Number(0, i64::MAX, OnCommandLine, |_, _| true), "0", "no effect")
        .flag("max-threads").effect(OptionEffect::NoConcurrency).bad_value(BadValue::DefaultWithoutThreads),
    established("Processes", Truth(|s, truth| s.processes = truth), "False", "no effect")
        .flag("processes").effect(OptionEffect::NoConcurrency),
    established("MaxProcesses", Number(0, i64::MAX, OnCommandLine, |_, _| true), "40", "no effect")
        .flag("max-processes").effect(OptionEffect::NoConcurrency).bad_value(BadValue::Default),
    established("PreFork", Number(i64::MIN, i64::MAX, Later, |s, n| fit(&mut s.pre_fork, n)), "0", "no effect")
        .flag("pre-fork").effect(OptionEffect::NoConcurrency),
    established("Gevent", Truth(|_, _| {}), "False", "no effect")
        .flag("gevent").effect(OptionEffect::NoConcurrency),
    established("SentryDSN", Text(|_, _| {}), "", "no effect")
        .effect(OptionEffect::NoSentry).secret(),
    established("SentryLogLevel", Text(|_, _| {}), "WARN", "no effect")
        .effect(OptionEffect::NoSentry),
    established("UsageSentryDSN", Text(|_, _| {}), "", "no effect")
        .effect(OptionEffect::NoSentry).secret(),
    established("UsageSentryLogLevel", Text(|_, _| {}), "WARN", "no effect")
        .effect(OptionEffect::NoSentry),
];

/// The option with this key, in any case.
pub(crate) fn by_key(key: &str) -> Option<&'static ServerOption> {
    OPTIONS.iter().find(|option| option.in_file && option.key.eq_ignore_ascii_case(key))
}
