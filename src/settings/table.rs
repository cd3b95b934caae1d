//! The table of all options. The command line, the config file, the defaults and the help are made from it, and tests
//! check `config.example` and the manual pages against it.

use std::path::PathBuf;

use super::forwarding::ForwardedOps;
use super::option::NumberCheck::{Later, OnCommandLine};
use super::option::OptionKind::{
    File, Metrics, Networks as NetworkList, Number, Origin, Path, Senders, StrictTruth, Switch, Text, Truth,
    Word, Words,
};
use super::option::{BadValue, OptionEffect, ServerOption, established, recent};
use crate::access::AccessOrder;
use crate::storage;

const COUNT: i64 = i32::MAX as i64;
const NICE: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
/// The longest expiry age that fits a time stamp, in seconds.
const LONGEST_AGE: i64 = i64::MAX / 1_000_000;
/// The longest age of a cached answer, in seconds: a year.
const LONGEST_CACHED: i64 = 31_536_000;

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
        "directory of the config, database, accounts and pid files (default: ~/.pyzor, or /etc/pyzor without HOME)")
        .command_line_only(),
    established("Port", Number(0, 65_535, OnCommandLine, |s, n| fit(&mut s.port, n)), "24441",
        "UDP port to listen on; 0: any free port").flag("port").short('p'),
    established("ListenAddress", Text(|s, text| s.listen_address = text), "0.0.0.0",
        "address to listen on; :: serves IPv6 and IPv4").flag("address").short('a'),
    recent("SendBuffer", Number(4096, 1_073_741_823, Later, |s, n| fit(&mut s.send_buffer, n)), "4194304",
        "size of the kernel's buffer for replies, in bytes"),
    recent("ReusePort", Truth(|s, truth| s.reuse_port = truth), "False",
        "share the port with other processes that set this option; each gets some of the requests"),
    established("Engine", Word(&storage::NAMES, |s, name| s.engine = name.to_owned()), "gdbm",
        "storage engine: ENGINES").flag("database-engine").short('e'),
    established("DigestDB", Text(|s, text| s.digest_db = text), "pyzord.db",
        "database: a file (gdbm), host,port,password,database (redis), host,user,password,database,table (mysql)")
        .flag("dsn").secret(),
    established("CleanupAge", Number(0, LONGEST_AGE, Later, |s, n| fit(&mut s.cleanup_age, n)), "10368000",
        "seconds after its last change when a record expires; 0: never").flag("cleanup-age"),
    established("PasswdFile", File(|s, path| s.passwd_file = path), "pyzord.passwd",
        "accounts file").flag("password-file"),
    established("AccessFile", File(|s, path| s.access_file = path), "pyzord.access",
        "access file").flag("access-file"),
    recent("AccessOrder", Word(&AccessOrder::NAMES, |s, name| s.access_order = AccessOrder::named(name)), "first",
        "line of the access file that decides: the first match, as documented, or the last, as in the Python server")
        .flag("access-order"),
    recent("User", Text(|s, text| s.user = text), "",
        "user to switch to after binding the port, when started as root").flag("user"),
    recent("Group", Text(|s, text| s.group = text), "",
        "group to switch to (default: the user's own)").flag("group"),
    recent("Confine", StrictTruth(|s, truth| s.confine = truth), "True",
        "drop every privilege the server does not need, as far as the kernel supports it"),
    recent("AllowNetworks", NetworkList(|s, networks| s.allow_networks = networks), "",
        "networks whose datagrams are accepted; empty: all"),
    recent("DenyNetworks", NetworkList(|s, networks| s.deny_networks = networks), "",
        "networks whose datagrams are dropped, even if allowed"),
    recent("RateLimit", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit, n)), "0",
        "requests accepted per second and source prefix; 0: no limit"),
    recent("RateLimitErrors", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit_errors, n)), "0",
        "refusals sent per second and source prefix; 0: no limit"),
    recent("RateLimitWrites", Number(0, 1_000_000, Later, |s, n| fit(&mut s.rate_limit_writes, n)), "0",
        "anonymous reports and whitelistings accepted per second and source prefix; 0: no limit"),
    recent("RateLimitBurst", Number(1, 3600, Later, |s, n| fit(&mut s.rate_limit_burst, n)), "10",
        "size of a burst, in seconds of each rate"),
    recent("RateLimitExempt", NetworkList(|s, networks| s.rate_limit_exempt = networks), "",
        "networks without rate limits"),
    recent("RateLimitLogOnly", Truth(|s, truth| s.rate_limit_log_only = truth), "False",
        "only log requests beyond a rate limit, and answer them"),
    recent("RateLimitPrefixV4", Number(8, 32, Later, |s, n| fit(&mut s.rate_limit_prefix_v4, n)), "24",
        "length of a source prefix of IPv4, in bits"),
    recent("RateLimitPrefixV6", Number(16, 64, Later, |s, n| fit(&mut s.rate_limit_prefix_v6, n)), "56",
        "length of a source prefix of IPv6, in bits"),
    recent("RateLimitTable", Number(1024, 16_777_216, Later, |s, n| fit(&mut s.rate_limit_table, n)), "65536",
        "number of source prefixes that are remembered, 48 bytes each"),
    recent("ReplayGuard", Truth(|s, truth| s.replay_guard = truth), "False",
        "count a signed report or whitelisting only once, even if copies of it arrive"),
    recent("ReplayGuardSize", Number(1000, 100_000_000, Later, |s, n| fit(&mut s.replay_guard_size, n)), "450000",
        "minimum number of signatures that ReplayGuard remembers, 50 bytes each"),
    established("PidFile", File(|s, path| s.pid_file = path), "pyzord.pid",
        "pid file, written with --detach").flag("pid-file"),
    recent("ControlSocket", File(|s, path| s.control_socket = non_empty(path)), "pyzord.sock",
        "Unix socket for pyzorctl; empty: none"),
    recent("MetricsAddress", Metrics(|s, address| s.metrics_address = address), "",
        "ADDRESS:PORT or absolute path of a Unix socket for metrics by HTTP; empty: none"),
    established("LogFile", File(|s, path| s.log_file = non_empty(path)), "",
        "operator log").flag("log-file"),
    established("UsageLogFile", File(|s, path| s.usage_log_file = non_empty(path)), "",
        "usage log, one line per request").flag("usage-log-file"),
    established("detach", Path(|s, path| s.detach = non_empty(path)), "",
        "run in the background, with all output to this file").command_line_only(),
    established("nice", Number(NICE.0, NICE.1, OnCommandLine, |s, n| fit(&mut s.nice, n)), "0",
        "add this number to the niceness").command_line_only().short('n'),
    established("debug", Switch(|s, is_given| s.debug = is_given), "",
        "log debug messages, also to stderr").command_line_only().short('d'),
    recent("check-config", Switch(|s, is_given| s.check_config = is_given), "",
        "report every problem of the configuration, accounts and access files, and exit").command_line_only(),
    recent("recover", Switch(|s, is_given| s.recover = is_given), "",
        "repair a damaged gdbm database, keep the damaged file beside it, and exit").command_line_only(),
    established("DBConnections", Number(0, COUNT, OnCommandLine, |s, n| fit(&mut s.db_connections, n)), "0",
        "size of mysql's connection pool; 0: chosen by the server")
        .flag("db-connections").bad_value(BadValue::DefaultWithoutThreads),
    established("ForwardClientHomeDir", Path(|s, path| s.forwarding.client_homedir = non_empty(path)), "",
        "homedir of a client to whose servers reports and whitelistings are forwarded; empty: none")
        .flag("forward-client-homedir"),
    recent("ForwardOps", Words(&ForwardedOps::NAMES, |s, names| s.forwarding.ops = ForwardedOps::named(&names)),
        "report whitelist", "operations to forward: report, whitelist or both"),
    recent("ForwardDelay", Number(0, 60, Later, |s, n| fit(&mut s.forwarding.delay, n)), "1",
        "longest wait for a forwarded request to be filled, in seconds"),
    recent("ForwardRetries", Number(0, 5, Later, |s, n| fit(&mut s.forwarding.retries, n)), "0",
        "number of times that a forwarded request is sent again if it is unanswered or answered with code 500"),
    recent("ForwardQueue", Number(10, 10_000_000, Later, |s, n| fit(&mut s.forwarding.queue, n)), "10000",
        "maximum number of digests that wait for one server"),
    recent("ForwardRate", Number(1, 1_000_000, Later, |s, n| fit(&mut s.forwarding.rate, n)), "100",
        "maximum number of requests per second to a server that is available again, of those queued while it was not"),
    recent("ForwardFrom", Senders(|s, senders| s.forward_from = senders), "",
        "networks and accounts whose forwarded requests are passed on although they have no Forward-Id"),
    recent("ForwardOrigin", Origin(|s, origin| s.forward_origin = origin), "",
        "16 hexadecimal digits that identify all processes on one database; empty: those in the homedir"),
    recent("UpstreamHomeDir", Path(|s, path| s.upstream_options.client_homedir = non_empty(path)), "",
        "homedir of a client whose servers are asked about digests that a check has not found; empty: none"),
    recent("UpstreamTimeout", Number(1, 10, Later, |s, n| fit(&mut s.upstream_options.timeout, n)), "1",
        "longest wait of a check for the answer of another server, in seconds"),
    recent("UpstreamCache", Number(0, 1_000_000, Later, |s, n| fit(&mut s.upstream_options.cache, n)), "65536",
        "maximum number of digests whose answers from other servers are kept in memory; 0: none"),
    recent("UpstreamCacheAge", Number(1, LONGEST_CACHED, Later, |s, n| fit(&mut s.upstream_options.found_age, n)), "3600",
        "seconds after which a digest that another server has found is asked about again"),
    recent("UpstreamMissAge", Number(1, LONGEST_CACHED, Later, |s, n| fit(&mut s.upstream_options.miss_age, n)), "300",
        "seconds after which a digest that no other server has found is asked about again"),
    recent("UpstreamRate", Number(1, 1_000_000, Later, |s, n| fit(&mut s.upstream_options.rate, n)), "200",
        "maximum number of digests per second about which other servers are asked"),
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
