//! `--check-config`: reports every problem of the settings, accounts and access rules, and of the servers that reports are
//! forwarded to or that are asked for second opinions.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use super::console::{print, say};
use super::directories::{DirectoryWarnings, FORWARDING, UPSTREAM, problems};
use crate::access::{self, AccessSources, PresentFiles};
use crate::forward::origin;
use crate::remotes::{self, DirectorySource, RemoteServer, is_own};
use crate::settings::CheckedSources;
use pyzor_home::problem::ConfigProblem;

/// What was found, and printed.
#[derive(Default)]
struct Findings {
    errors: usize,
    warnings: usize,
    of_directories: DirectoryWarnings,
}

/// A homedir of a client, and the words for what its servers are for.
struct CheckedDirectory<'a> {
    option: &'static str,
    source: &'a DirectorySource,
    /// The consequence for the address of this server.
    of_own: &'static str,
    /// The words before and after the servers.
    verb: &'static str,
    what: &'static str,
}

fn directories_of(sources: &CheckedSources) -> impl Iterator<Item = CheckedDirectory<'_>> {
    let forward = sources.forward.as_ref().map(|source| CheckedDirectory {
        option: FORWARDING,
        source,
        of_own: "to which nothing is forwarded",
        verb: "forwarding to",
        what: "",
    });
    let upstream = sources.upstream.as_ref().map(|source| CheckedDirectory {
        option: UPSTREAM,
        source,
        of_own: "which is not asked",
        verb: "asking",
        what: " for second opinions",
    });
    forward.into_iter().chain(upstream)
}

/// Prints the problems of the settings, and of the files that a start would load.
pub(super) fn check(problems: &[ConfigProblem], warnings: &[String], sources: &CheckedSources) -> ExitCode {
    let mut findings = Findings::default();
    warnings.iter().for_each(|warning| findings.warning(warning));
    problems.iter().for_each(|problem| findings.error(&problem.to_string()));
    findings.check_access(&sources.access);
    directories_of(sources).for_each(|directory| findings.check_directory(directory, sources.listening));
    if let Some(homedir) = &sources.origin {
        findings.check_origin(homedir);
    }
    let plural = |number, what| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    print(&format!(
        "pyzord: the configuration has {} and {}\n",
        plural(findings.errors, "error"),
        plural(findings.warnings, "warning")
    ));
    if findings.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Findings {
    fn error(&mut self, text: &str) {
        say("error", &text);
        self.errors += 1;
    }

    fn warning(&mut self, text: &str) {
        say("warning", &text);
        self.warnings += 1;
    }

    fn directory_warnings(&mut self, warnings: Vec<String>) {
        self.of_directories.fresh(warnings).iter().for_each(|warning| self.warning(warning));
    }

    fn check_access(&mut self, sources: &AccessSources) {
        match access::load(sources, PresentFiles::default()) {
            Ok(loaded) => loaded.warnings.iter().for_each(|warning| self.warning(warning)),
            Err(error) => self.error(&error.to_string()),
        }
    }

    fn check_directory(&mut self, directory: CheckedDirectory<'_>, listening: Option<SocketAddr>) {
        let CheckedDirectory { option, source, of_own, verb, what } = directory;
        match remotes::load(source) {
            Ok(loaded) => {
                self.directory_warnings(loaded.warnings);
                let servers = loaded.directory.servers.iter();
                for server in servers.filter(|server| is_this_server(server, listening)) {
                    self.warning(&format!(
                        "{option}: {server} is this server itself, {of_own}: remove it from the servers file"
                    ));
                }
                say("note", &format_args!("{verb} {}{what}", loaded.directory.describe()));
            }
            Err(mut error) => {
                self.directory_warnings(std::mem::take(&mut error.warnings));
                problems(option, &error).iter().for_each(|problem| self.error(problem));
            }
        }
    }

    fn check_origin(&mut self, homedir: &Path) {
        match origin::check(homedir) {
            Ok(warning) => warning.iter().for_each(|warning| self.warning(warning)),
            // A problem with the homedir itself has been reported.
            Err(_) if !homedir.is_dir() => {}
            Err(error) => self.error(&error.to_string()),
        }
    }
}

/// Whether a server has a literal address that is that of this server. Names may have other addresses at a start.
fn is_this_server(server: &RemoteServer, listening: Option<SocketAddr>) -> bool {
    let address = server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port));
    address.zip(listening).is_some_and(|(address, listening)| is_own(address, listening))
}
