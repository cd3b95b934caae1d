//! Questions to all servers, without sockets and clocks: gathers the replies to each into one answer.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use pyzor_home::loggable::loggable_name;
use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;

use super::asked::{AskedServer, Dispatch, DispatchOutcome, Readiness, Response, ServerId};
use super::{UpstreamAnswer, UpstreamServerStatus};
use crate::remotes::{RemoteDirectory, RemoteServer};
use crate::stats::UpstreamServerCounts;

/// A question that some servers have not replied to.
#[derive(Debug)]
struct OpenQuestion {
    digest: Digest,
    /// The number of servers from which a reply is awaited.
    awaited: usize,
    /// The largest counts so far.
    counts: Option<RecordCounts>,
    /// Whether all servers were asked, and none has failed to answer.
    is_complete: bool,
}

/// The servers and the questions to them.
#[derive(Debug)]
pub(super) struct Questions {
    timeout: Duration,
    /// The servers, in the order of the servers file.
    servers: Vec<AskedServer>,
    /// The number of servers that there ever were.
    begun: u64,
    open: HashMap<u64, OpenQuestion>,
    /// The number of questions that there ever were.
    asked: u64,
    answers: Vec<UpstreamAnswer>,
}

impl Questions {
    /// Returns questions without servers.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, servers: Vec::new(), begun: 0, open: HashMap::new(), asked: 0, answers: Vec::new() }
    }

    /// Asks all servers that take questions. Each dispatch must be reported. `time` is the time of signing.
    pub(super) fn ask(&mut self, digest: Digest, now: Instant, time: i64) -> Vec<Dispatch> {
        let number = self.asked;
        self.asked += 1;
        let dispatches: Vec<Dispatch> =
            self.servers.iter_mut().filter_map(|server| server.ask(number, digest, now, time)).collect();
        let others = self.servers.iter().filter(|server| !server.is_this_server()).count();
        let (awaited, is_complete) = (dispatches.len(), dispatches.len() == others);
        let question = OpenQuestion { digest, awaited, counts: None, is_complete };
        match dispatches.is_empty() {
            true => self.answers.push(UpstreamAnswer { digest, counts: None, is_complete: false }),
            false => drop(self.open.insert(number, question)),
        }
        self.gather();
        dispatches
    }

    /// Ends what has waited long enough. Returns the pings that are due.
    ///
    /// Everything that has arrived before `now` must have been reported: it is in time.
    pub(super) fn poll(&mut self, now: Instant, time: i64) -> Vec<Dispatch> {
        let pings = self.servers.iter_mut().filter_map(|server| server.poll(now, time)).collect();
        self.gather();
        pings
    }

    /// Reports what came of a dispatch.
    pub(super) fn dispatched(&mut self, dispatch: &Dispatch, outcome: DispatchOutcome, now: Instant) {
        self.with_server(dispatch.server, |server| server.dispatched(dispatch, outcome, now));
    }

    /// Changes the state of a server, and takes the replies that result from that.
    pub(super) fn with_server(&mut self, id: ServerId, change: impl FnOnce(&mut AskedServer)) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.id() == id) {
            change(server);
            let responses = server.take_responses();
            responses.into_iter().for_each(|response| self.take(response));
        }
    }

    /// Takes the responses of all servers.
    fn gather(&mut self) {
        let responses: Vec<Response> =
            self.servers.iter_mut().flat_map(AskedServer::take_responses).collect();
        responses.into_iter().for_each(|response| self.take(response));
    }

    fn take(&mut self, response: Response) {
        let Some(question) = self.open.get_mut(&response.question) else { return };
        question.awaited -= 1;
        question.is_complete &= response.counts.is_some();
        question.counts = match (question.counts, response.counts) {
            (Some(one), Some(other)) => Some(RecordCounts {
                reports: one.reports.max(other.reports),
                whitelists: one.whitelists.max(other.whitelists),
            }),
            (one, other) => one.or(other),
        };
        if question.awaited == 0 {
            let OpenQuestion { digest, counts, is_complete, .. } = *question;
            self.answers.push(UpstreamAnswer { digest, counts, is_complete });
            self.open.remove(&response.question);
        }
    }

    /// Takes the answers that are complete.
    pub(super) fn take_answers(&mut self) -> Vec<UpstreamAnswer> {
        std::mem::take(&mut self.answers)
    }

    /// Ends all questions without a further reply.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.servers.iter_mut().for_each(|server| server.give_up_all(now));
        self.gather();
    }

    /// Whether any server takes a question now.
    pub(super) fn readiness(&self) -> Readiness {
        self.servers.iter().map(AskedServer::readiness).max().unwrap_or(Readiness::Unready)
    }

    /// Returns the time at which something is due without another event.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.servers.iter().filter_map(AskedServer::next_time).min()
    }

    /// Replaces the servers. A server with the same host and port keeps its state, also with another account. Those that
    /// are removed are not waited for. Returns a line for each change.
    pub(super) fn replace(&mut self, directory: RemoteDirectory, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let mut old = std::mem::take(&mut self.servers);
        for remote in directory.servers {
            let is_it = |server: &AskedServer| {
                (&server.remote().host, server.remote().port) == (&remote.host, remote.port)
            };
            if let Some(index) = old.iter().position(is_it) {
                let mut server = old.remove(index);
                lines.extend(set_account(&mut server, remote));
                server.renew_addresses();
                self.servers.push(server);
                continue;
            }
            lines.push(format!("Second opinions from {} begin", remote.describe()));
            let id = ServerId(self.begun);
            self.begun += 1;
            self.servers.push(AskedServer::new(id, remote, self.timeout, now));
        }
        for mut server in old {
            lines.push(format!("Second opinions from {} end", server.remote().describe()));
            server.give_up_all(now);
            server.take_responses().into_iter().for_each(|response| self.take(response));
        }
        lines
    }

    /// Returns the ids of the servers, in ascending order.
    pub(super) fn ids(&self) -> Vec<ServerId> {
        let mut ids: Vec<ServerId> = self.servers.iter().map(AskedServer::id).collect();
        ids.sort_unstable();
        ids
    }

    /// The servers, in the order of the servers file.
    pub(super) fn servers(&mut self) -> &mut [AskedServer] {
        &mut self.servers
    }

    /// Returns the state of each server, in the order of the servers file.
    pub(super) fn status(&self, now: Instant) -> Vec<UpstreamServerStatus> {
        self.servers.iter().map(|server| server.status(now)).collect()
    }

    /// Returns the counters of each server.
    pub(super) fn counts(&self) -> BTreeMap<String, UpstreamServerCounts> {
        self.servers.iter().map(|server| (server.remote().to_string(), server.counts().clone())).collect()
    }
}

/// Uses the account of `remote` for questions that are written from now on. Returns a line on the change, if it is one.
fn set_account(server: &mut AskedServer, remote: RemoteServer) -> Option<String> {
    let name = remote.to_string();
    let before = server.set_signer(remote.signer.clone())?;
    let (old, new) = (loggable_name(before.user()), loggable_name(remote.signer.user()));
    Some(match before.user() == remote.signer.user() {
        true => format!("Second opinions from {name}: the key of the account {new} has changed"),
        false => format!("Second opinions from {name}: account changed from {old} to {new}"),
    })
}
