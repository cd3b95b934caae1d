//! Which files the server still needs once it serves, and giving up everything else.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::os::boot;
use crate::os::confine::{self, ReachablePaths};
use crate::os::inherited;
use crate::settings::Settings;
use crate::storage;

/// Where the C library looks for names of hosts and users, and for what it loads to do so.
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
/// Where systems keep the certificates that they trust.
const CERTIFICATES: [&str; 4] =
    ["/etc", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates"];
/// The time zone.
const ZONES: [&str; 4] = ["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/usr/lib/zoneinfo"];
/// What programs read without being asked for it.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/urandom", "/dev/random", "/proc/self", "/proc/locks"];

/// Gives up what the server does not need, if that is wanted, and says so. There may be no other thread.
pub(super) fn confine(settings: &Settings) {
    // It cannot be read any more afterwards.
    boot::id();
    if !settings.confine {
        info!("Not confined, as Confine says.");
        return;
    }
    if let Err(error) = confine::forbid_dumps() {
        warn!("dumps of this process, which hold keys, cannot be forbidden: {error}");
    }
    let report = confine::confine(&places(settings));
    report.warnings.iter().for_each(|warning| warn!("{warning}"));
    info!("{}", report.text);
}

fn places(settings: &Settings) -> ReachablePaths {
    let mut places = ReachablePaths::default();
    places.written.push(settings.homedir.clone());
    let engine = storage::properties(&settings.engine);
    let logs = [&settings.log_file, &settings.usage_log_file].into_iter().flatten();
    let (open, logs): (Vec<_>, Vec<_>) = logs.partition(|path| inherited::number_of(path).is_some());
    // What is open already needs no rule; a file may be put in the place of a link to it.
    let links = open.into_iter().filter(|path| !is_of_the_system(path));
    places.written.extend(links.filter_map(|path| path.parent()).map(Path::to_owned));
    let database = engine.is_file.then_some(&settings.digest_db_path);
    let pid_file = settings.detach.is_some().then_some(&settings.pid_file);
    for path in logs.into_iter().chain(database).chain(pid_file) {
        add(&mut places.written, path);
    }
    add(&mut places.read, &settings.passwd_file);
    add(&mut places.read, &settings.access_file);
    places.read.extend(ZONES.into_iter().chain(DEVICES).map(PathBuf::from));
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    places.read.extend(variable("TZDIR"));
    places.read.extend(variable("TZ").filter(|path| path.is_absolute()));
    places.written.push("/dev/null".into());
    if engine.needs_network || settings.listen_address.parse::<IpAddr>().is_err() {
        // Directories rather than files: when the network changes, another file takes the place of the old one.
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

/// Adds the directory of a file, and of what it is a link to; what is no regular file only itself.
fn add(directories: &mut Vec<PathBuf>, path: &Path) {
    let is_other = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    if is_other {
        directories.push(path.to_owned());
    }
    // A link to what is not there yet says where it will be.
    let target = fs::canonicalize(path).ok().or_else(|| Some(path.parent()?.join(fs::read_link(path).ok()?)));
    let places = [Some(path), target.as_deref()].into_iter().flatten();
    // A device has no neighbours that might take its place, a pipe may.
    let places = places.filter(|place| !(is_other && is_of_the_system(place)));
    directories.extend(places.filter_map(Path::parent).map(Path::to_owned));
}

fn is_of_the_system(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}
