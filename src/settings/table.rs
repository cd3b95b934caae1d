//! Every option there is, once. The command line, the config file, the defaults, the help, the
//! example and the manuals are made from this table or checked against it.

use crate::storage;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionKind {
    /// A switch of the command line, without a value.
    Switch,
    /// Any text.
    Text,
    /// A file; a relative one is in the homedir, `~` and `~user` are expanded. Empty: none.
    File,
    /// A path relative to the working directory. Empty: none.
    Path,
    /// A whole number from the first to the second, where the command line checks its form itself
    /// (as for an option that has always been one) or leaves that to the settings.
    Number(i64, i64, NumberCheck),
    /// `true`, in any case; everything else is false.
    Truth,
    /// A list of networks.
    Networks,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// Who finds out that a value is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberCheck {
    /// The command line, which also admits hexadecimal, octal and binary ones.
    OnCommandLine,
    /// The settings.
    Later,
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionEffect {
    /// It does what it says.
    Honoured,
    /// It is accepted since deployed configurations have it, and does nothing.
    None,
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerOption {
    /// Its name in the config file; for an option of the command line alone, its flag.
    pub(crate) key: &'static str,
    /// Its name on the command line, without the dashes; none: config file only.
    pub(crate) flag: Option<&'static str>,
    /// Its short name on the command line.
    pub(crate) short: Option<char>,
    /// What its value is.
    pub(crate) kind: OptionKind,
    /// What holds without it, as the config file would say it.
    pub(crate) default: &'static str,
    /// One line of help, as [`ServerOption::help`] completes it.
    help: &'static str,
    /// What becomes of it.
    pub(crate) effect: OptionEffect,
    /// Whether the Python server has it, so that it may be abbreviated.
    pub(crate) established: bool,
    /// Whether the config file may have it.
    pub(crate) in_file: bool,
}

use NumberCheck::{Later, OnCommandLine};
use OptionEffect::{Honoured, None as NoEffect};
use OptionKind::{File, Networks, Number, Path, Switch, Text, Truth, Word};

const COUNT: (i64, i64) = (0, i32::MAX as i64);

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
        effect: Honoured,
        established: true,
        in_file: true,
    }
}

impl ServerOption {
    /// The line of help, which names all engines where it says `ENGINES`.
    pub(crate) fn help(&self) -> String {
        self.help.replace("ENGINES", &storage::listed())
    }

    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn without_effect(self) -> Self {
        Self { effect: NoEffect, ..self }
    }

    const fn recent(self) -> Self {
        Self { established: false, ..self }
    }

    const fn command_line_only(self) -> Self {
        Self { in_file: false, flag: Some(self.key), ..self }
    }
}

/// Every option, in the order of the documentation.
pub(crate) const OPTIONS: &[ServerOption] = &[
    established("homedir", Path, "", "the folder of config, database, accounts and pid file (default: ~/.pyzor, or /etc/pyzor without HOME)").command_line_only(),
    established("Port", Number(0, 65535, OnCommandLine), "24441", "the UDP port to listen on; 0: any free one").flag("port").short('p'),
    established("ListenAddress", Text, "0.0.0.0", "the address to listen on; :: serves IPv6 and IPv4").flag("address").short('a'),
    established("SendBuffer", Number(4096, 1_073_741_823, Later), "4194304", "how many bytes of replies the kernel is asked to hold until they are sent").recent(),
    established("ReusePort", Truth, "False", "share the port with other processes of this option, each of which gets some of the requests").recent(),
    established("Engine", Word(&storage::NAMES), "gdbm", "the storage engine: ENGINES").flag("database-engine").short('e'),
    established("DigestDB", Text, "pyzord.db", "the database, in the engine's form; for gdbm a file, for the others host,port,password,database or host,user,password,database,table").flag("dsn"),
    established("CleanupAge", Number(0, i64::MAX / 1_000_000, Later), "10368000", "seconds after the last change when a record expires; 0: never").flag("cleanup-age"),
    established("PasswdFile", File, "pyzord.passwd", "the accounts file").flag("password-file"),
    established("AccessFile", File, "pyzord.access", "the access file").flag("access-file"),
    established("AccessOrder", Word(&["first", "last"]), "first", "which matching line of the access file decides: first, as documented, or last, as in the Python server").flag("access-order").recent(),
    established("User", Text, "", "the user to become once the port is bound, when started as root").flag("user").recent(),
    established("Group", Text, "", "the group to have then (default: the user's own)").flag("group").recent(),
    established("Confine", Truth, "True", "give up, as far as the kernel offers that, whatever the server does not need").recent(),
    established("AllowNetworks", Networks, "", "the networks that are heard; none: all").recent(),
    established("DenyNetworks", Networks, "", "the networks that are not heard, even if allowed").recent(),
    established("RateLimit", Number(0, 1_000_000, Later), "0", "how many requests a second and source prefix; 0: any number").recent(),
    established("RateLimitErrors", Number(0, 1_000_000, Later), "0", "how many refusals a second and source prefix; 0: any number").recent(),
    established("RateLimitWrites", Number(0, 1_000_000, Later), "0", "how many anonymous reports and whitelistings a second and source prefix; 0: any number").recent(),
    established("RateLimitBurst", Number(1, 3600, Later), "10", "how many seconds' worth of a rate may come at once").recent(),
    established("RateLimitExempt", Networks, "", "the networks that no rate limits").recent(),
    established("RateLimitLogOnly", Truth, "False", "answer what exceeds a rate, too, and only tell of it").recent(),
    established("RateLimitPrefixV4", Number(8, 32, Later), "24", "how many bits of an IPv4 address make a source prefix").recent(),
    established("RateLimitPrefixV6", Number(16, 64, Later), "56", "how many bits of an IPv6 address make a source prefix").recent(),
    established("RateLimitTable", Number(1024, 16_777_216, Later), "65536", "how many source prefixes are remembered, of 48 bytes each").recent(),
    established("ReplayGuard", Truth, "False", "count a signed report or whitelisting once only, however often a copy of it arrives").recent(),
    established("ReplayGuardSize", Number(1000, 100_000_000, Later), "450000", "how many signatures ReplayGuard remembers at least, of 50 bytes each").recent(),
    established("PidFile", File, "pyzord.pid", "the pid file, written with --detach").flag("pid-file"),
    established("LogFile", File, "", "the operator's log").flag("log-file"),
    established("UsageLogFile", File, "", "the log of all requests").flag("usage-log-file"),
    established("detach", Path, "", "go into the background, with all output to this file").command_line_only(),
    established("nice", Number(i32::MIN as i64, i32::MAX as i64, OnCommandLine), "0", "raise the niceness by this much").command_line_only().short('n'),
    established("debug", Switch, "", "log everything, also to stderr").command_line_only().short('d'),
    established("check-config", Switch, "", "check configuration, accounts and access file, report every problem, and start nothing").command_line_only().recent(),
    established("recover", Switch, "", "repair a damaged gdbm database, keep the file as it was, and start nothing").command_line_only().recent(),
    established("DBConnections", Number(COUNT.0, COUNT.1, OnCommandLine), "0", "the size of mysql's connection pool; 0: a sensible one").flag("db-connections"),
    established("ForwardClientHomeDir", Path, "", "a client's homedir whose servers get every report too (not supported yet)").flag("forward-client-homedir"),
    established("Threads", Truth, "False", "no effect").flag("threads").without_effect(),
    established("MaxThreads", Number(0, i64::MAX, OnCommandLine), "0", "no effect").flag("max-threads").without_effect(),
    established("Processes", Truth, "False", "no effect").flag("processes").without_effect(),
    established("MaxProcesses", Number(0, i64::MAX, OnCommandLine), "40", "no effect").flag("max-processes").without_effect(),
    established("PreFork", Number(i64::MIN, i64::MAX, Later), "0", "no effect").flag("pre-fork").without_effect(),
    established("Gevent", Truth, "False", "no effect").flag("gevent").without_effect(),
    established("SentryDSN", Text, "", "no effect").without_effect(),
    established("SentryLogLevel", Text, "WARN", "no effect").without_effect(),
    established("UsageSentryDSN", Text, "", "no effect").without_effect(),
    established("UsageSentryLogLevel", Text, "WARN", "no effect").without_effect(),
];

/// The option of this key, in any case.
pub(crate) fn by_key(key: &str) -> Option<&'static ServerOption> {
    OPTIONS.iter().find(|option| option.in_file && option.key.eq_ignore_ascii_case(key))
}
