//! Servers that ask others for second opinions: the client's directory that names those, and what operators see.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{Account, Home, ask_operator, eventually, lines};

impl Home {
    /// Lets servers of this homedir ask these servers, as lines of the servers file, without accounts. The setting is
    /// added to the config.
    pub(crate) fn asking(self, servers: &[impl AsRef<str>]) -> Self {
        let directory = self.upstream_directory();
        fs::create_dir_all(&directory).unwrap();
        self.own(&directory, 0o755);
        self.upstream_file("servers", &lines(servers));
        let config = format!("{}\nUpstreamHomeDir = {}\n", self.read("config"), directory.display());
        self.file("config", config)
    }

    /// Adds an account for a server, as its line in the servers file names it.
    pub(crate) fn asking_as(self, server: &str, account: &Account) -> Self {
        let accounts = fs::read_to_string(self.upstream_directory().join("accounts")).unwrap_or_default();
        self.upstream_file("accounts", &(accounts + &account.client_line(server)));
        self
    }

    /// Returns the client's directory that names the servers to ask.
    pub(crate) fn upstream_directory(&self) -> PathBuf {
        self.parent().join("upstream")
    }

    /// Replaces a file of that directory.
    pub(crate) fn upstream_file(&self, name: &str, content: &str) {
        self.client_file(&self.upstream_directory(), name, content);
    }

    /// Returns what the running server knows of second opinions.
    pub(crate) fn opinions(&self) -> Opinions {
        Opinions {
            status: ask_operator(self, "status")["status"]["upstream"].clone(),
            counts: ask_operator(self, "stats")["stats"]["upstream"].clone(),
        }
    }

    /// Waits until what is known of second opinions satisfies a condition.
    #[track_caller]
    pub(crate) fn opinions_with(&self, what: &str, is_met: impl Fn(&Opinions) -> bool) -> Opinions {
        eventually(what, || Some(self.opinions()).filter(|opinions| is_met(opinions)))
    }

    /// Waits until this number of answers is in the cache and this number of checks wait, which the server samples each
    /// second.
    #[track_caller]
    pub(crate) fn opinions_held(&self, cached: u64, waiting: u64) -> Opinions {
        self.opinions_with(&format!("{cached} answers and {waiting} checks"), |it| {
            (it.number("cached"), it.number("waiting")) == (cached, waiting)
        })
    }

    /// Waits until a server is in this state.
    #[track_caller]
    pub(crate) fn opinions_while(&self, server: &str, state: &str) -> Opinions {
        let what = format!("{server} to be {state}");
        self.opinions_with(&what, |it| it.knows(server) && it.state(server) == state)
    }
}

/// The state and the counters of second opinions.
#[derive(Debug)]
pub(crate) struct Opinions {
    status: Value,
    counts: Value,
}

impl Opinions {
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

    /// Returns the number of checks that got no second opinion for this cause.
    #[track_caller]
    pub(crate) fn declined(&self, cause: &str) -> u64 {
        self.counts["declined"][cause].as_u64().unwrap_or_else(|| panic!("{cause} is missing: {self:?}"))
    }

    /// Whether a server is asked.
    pub(crate) fn knows(&self, server: &str) -> bool {
        self.find(server).is_some()
    }

    #[track_caller]
    pub(crate) fn state(&self, server: &str) -> &str {
        self.server(server)["state"].as_str().unwrap()
    }

    /// Returns a text of a server's status, or an empty one.
    #[track_caller]
    pub(crate) fn text(&self, server: &str, name: &str) -> &str {
        let status = self.server(server);
        assert!(status.get(name).is_some(), "{name} is missing: {self:?}");
        status[name].as_str().unwrap_or_default()
    }

    /// Returns a counter of a server.
    #[track_caller]
    pub(crate) fn count_of(&self, server: &str, name: &str) -> u64 {
        let count = self.counts["servers"][server][name].as_u64();
        count.unwrap_or_else(|| panic!("{name} of {server} is missing: {self:?}"))
    }

    /// Returns the number of questions that a server has refused with a code.
    pub(crate) fn refused(&self, server: &str, code: u16) -> u64 {
        self.counts["servers"][server]["refused"][code.to_string()].as_u64().unwrap_or_default()
    }

    /// Returns the number of checks that found nothing in the database: each is counted once.
    pub(crate) fn missed(&self) -> u64 {
        let declined = self.counts["declined"].as_object().unwrap().values();
        let declined: u64 = declined.map(|count| count.as_u64().unwrap()).sum();
        declined
            + ["cached_hits", "cached_misses", "asked", "joined"]
                .iter()
                .map(|name| self.count(name))
                .sum::<u64>()
    }

    fn find(&self, server: &str) -> Option<&Value> {
        self.status["servers"].as_array()?.iter().find(|status| status["server"] == server)
    }

    #[track_caller]
    fn server(&self, server: &str) -> &Value {
        self.find(server).unwrap_or_else(|| panic!("{server} is not asked: {self:?}"))
    }
}
