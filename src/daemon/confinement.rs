//! The files that a serving server needs, and confinement to them.

use std::fs;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::directories;
use crate::os::boot;
use crate::os::confine::{self, ReachablePaths};
use crate::os::inherited;
use crate::settings::{MetricsAddress, Settings};
use crate::storage;

/// Paths from which the C library resolves names of hosts and users, and loads modules for that.
const NAME_LOOKUP: [&str; 12] = [
    "/etc",
    "/lib",
    "/lib64",
    "/nix/store",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/resolvconf",
    "/run/systemd",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/var/lib/sss",
];
/// Paths of the certificates that systems trust.
const CERTIFICATES: [&str; 4] =
    ["/etc", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates"];
/// Paths of the time zone.
const ZONES: [&str; 4] = ["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/usr/lib/zoneinfo"];
/// Paths that the C library and the runtime read on their own.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/urandom", "/dev/random", "/proc/self", "/proc/locks"];

/// Confines the process if `Confine` is set. Logs the result and returns it. Only `accepting` accept connections from then
/// on. The process must have a single thread.
pub(super) fn confine(settings: &Settings, accepting: &[RawFd]) -> String {
    // Read now, because the confined process cannot.
    boot::id();
    if !settings.confine {
        let text = "Not confined: Confine = False.";
        info!("{text}");
        return text.to_owned();
    }
    if let Err(error) = confine::forbid_dumps() {
        warn!("cannot disable core dumps, which would contain keys: {error}");
    }
    let report = confine::confine(&places(settings), accepting);
    report.warnings.iter().for_each(|warning| warn!("{warning}"));
    info!("{}", report.text);
    report.text
}

fn places(settings: &Settings) -> ReachablePaths {
    let mut places = ReachablePaths::default();
    places.written.push(settings.homedir.clone());
    let engine = storage::properties(&settings.engine);
    let logs = [&settings.log_file, &settings.usage_log_file].into_iter().flatten();
    let (open, logs): (Vec<_>, Vec<_>) = logs.partition(|path| inherited::number_of(path).is_some());
    // A descriptor needs no rule. A link to it does, because a file may replace the link.
    let links = open.into_iter().filter(|path| !is_system_path(path));
    places.written.extend(links.filter_map(|path| path.parent()).map(Path::to_owned));
    let database = engine.is_file.then_some(&settings.digest_db_path);
    let pid_file = settings.detach.is_some().then_some(&settings.pid_file);
    for path in logs.into_iter().chain(database).chain(pid_file) {
        add(&mut places.written, path);
    }
    let metrics = match &settings.metrics_address {
        Some(MetricsAddress::Unix(path)) => Some(path),
        Some(MetricsAddress::Tcp(_)) | None => None,
    };
    let sockets = settings.control_socket.iter().chain(metrics);
    places.removed.extend(sockets.filter_map(|path| path.parent()).map(Path::to_owned));
    add(&mut places.read, &settings.passwd_file);
    add(&mut places.read, &settings.access_file);
    places.read.extend(directories::in_use(settings).map(|(_, source)| source.path.clone()));
    directories::files(settings).keys().for_each(|path| add(&mut places.read, path));
    places.read.extend(ZONES.into_iter().chain(DEVICES).map(PathBuf::from));
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    places.read.extend(variable("TZDIR"));
    places.read.extend(variable("TZ").filter(|path| path.is_absolute()));
    places.written.push("/dev/null".into());
    let has_remotes = engine.needs_network || directories::in_use(settings).next().is_some();
    if has_remotes || settings.listen_address.parse::<IpAddr>().is_err() {
        // Directories rather than files, because files are replaced when the network changes.
        places.read.extend(NAME_LOOKUP.map(PathBuf::from));
        add(&mut places.read, Path::new("/etc/resolv.conf"));
    }
    if engine.needs_network {
        places.read.extend(CERTIFICATES.map(PathBuf::from));
        places.read.extend(variable("SSL_CERT_DIR"));
        for path in storage::authorities(&settings.digest_db).into_iter().chain(variable("SSL_CERT_FILE")) {
            add(&mut places.read, &path);
        }
    }
    places
}

/// Adds the directories of a file and of its target, if it is a link. Adds a pipe or device itself as well.
fn add(directories: &mut Vec<PathBuf>, path: &Path) {
    let is_other = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    if is_other {
        directories.push(path.to_owned());
    }
    // The target of a link may not exist yet.
    let target = fs::canonicalize(path).ok().or_else(|| Some(path.parent()?.join(fs::read_link(path).ok()?)));
    let places = [Some(path), target.as_deref()].into_iter().flatten();
    // No file replaces a device, but one may replace a pipe.
    let places = places.filter(|place| !(is_other && is_system_path(place)));
    directories.extend(places.filter_map(Path::parent).map(Path::to_owned));
}

fn is_system_path(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}
