//! Servers that forward to others: the client's directory that names those, and what operators see of each.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Account, Home, ask_operator, eventually};

impl Home {
    /// Lets servers of this homedir forward to these servers, as lines of the servers file, without accounts.
    pub(crate) fn forwarding_to(self, servers: &[impl AsRef<str>]) -> Self {
        let directory = self.remotes();
        fs::create_dir_all(&directory).unwrap();
        self.own(&directory, 0o755);
        self.remotes_file("servers", &lines(servers));
        self.arguments(&["--forward-client-homedir", directory.to_str().unwrap()])
    }

    /// Adds an account for a server, as its line in the servers file names it.
    pub(crate) fn forwarding_as(self, server: &str, account: &Account) -> Self {
        let accounts = fs::read_to_string(self.remotes().join("accounts")).unwrap_or_default();
        self.remotes_file("accounts", &(accounts + &account.client_line(server)));
        self
    }

    /// Returns the client's directory that names the servers to forward to.
    pub(crate) fn remotes(&self) -> PathBuf {
        self.parent().join("remotes")
    }

    /// Replaces a file of that directory.
    pub(crate) fn remotes_file(&self, name: &str, content: &str) {
        self.client_file(&self.remotes(), name, content);
    }

    /// Replaces a file of a client's directory.
    pub(super) fn client_file(&self, directory: &Path, name: &str, content: &str) {
        let new = directory.join(format!("{name}.new"));
        fs::write(&new, content).unwrap();
        self.own(&new, 0o600);
        fs::rename(new, directory.join(name)).unwrap();
    }

    /// Gives a file to the owner of the homedir.
    pub(super) fn own(&self, path: &Path, mode: u32) {
        let owner = fs::metadata(self.directory()).unwrap();
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns what the running server knows of a server that it forwards to.
    #[track_caller]
    pub(crate) fn forwarding(&self, server: &str) -> Forwarding {
        self.find_forwarding(server).unwrap_or_else(|| panic!("nothing is forwarded to {server}"))
    }

    /// Returns what the running server knows of a server that it forwards to; none if it does not forward there.
    pub(crate) fn find_forwarding(&self, server: &str) -> Option<Forwarding> {
        let status = ask_operator(self, "status")["status"]["forwarding"].clone();
        let status = status.as_array()?.iter().find(|status| status["server"] == server)?.clone();
        let counts = ask_operator(self, "stats")["stats"]["forwarding"][server].clone();
        Some(Forwarding { status, counts })
    }

    /// Waits until what is known of a server satisfies a condition.
    #[track_caller]
    pub(crate) fn forwarding_with(
        &self,
        server: &str,
        what: &str,
        is_met: impl Fn(&Forwarding) -> bool,
    ) -> Forwarding {
        eventually(what, || self.find_forwarding(server).filter(|forwarding| is_met(forwarding)))
    }

    /// Waits until the outcome of this number of digests is known.
    #[track_caller]
    pub(crate) fn forwarding_settled(&self, server: &str, digests: u64) -> Forwarding {
        let settled = self.forwarding_with(server, "the outcome of all digests", |forwarding| {
            forwarding.settled() >= digests
        });
        assert_eq!(settled.settled(), digests, "{settled:?}");
        settled
    }
}

/// Returns the text of a file with these lines.
pub(crate) fn lines(lines: &[impl AsRef<str>]) -> String {
    lines.iter().map(|line| format!("{}\n", line.as_ref())).collect()
}

/// The state and the counters of one server that requests are forwarded to.
#[derive(Debug)]
pub(crate) struct Forwarding {
    status: Value,
    counts: Value,
}

impl Forwarding {
    pub(crate) fn state(&self) -> &str {
        self.status["state"].as_str().unwrap()
    }

    /// Returns a text of the status, or an empty one.
    pub(crate) fn text(&self, name: &str) -> &str {
        assert!(self.status.get(name).is_some(), "{name} is missing: {self:?}");
        self.status[name].as_str().unwrap_or_default()
    }

    /// Returns a number of the status.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.status[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
    }

    /// Returns a counter.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
    }

    /// Returns the number of digests refused with a code.
    pub(crate) fn refused(&self, code: u16) -> u64 {
        self.counts["refused"][code.to_string()].as_u64().unwrap_or_default()
    }

    /// Returns the number of digests whose outcome is known, or certainly unknown.
    pub(crate) fn settled(&self) -> u64 {
        let refused = self.counts["refused"].as_object().unwrap().values();
        let refused: u64 = refused.map(|count| count.as_u64().unwrap()).sum();
        refused + ["accepted", "silent", "dropped"].iter().map(|name| self.count(name)).sum::<u64>()
    }
}
