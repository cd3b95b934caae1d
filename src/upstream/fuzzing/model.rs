//! The slow model: a list of everything that was ever sent.

use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;
use pyzor_wire::reply_reader::{Code, ReceivedReply};

use super::thread;
use crate::upstream::asked::{Dispatch, DispatchOutcome, Readiness, ServerId, SocketId};
use crate::upstream::{UpstreamAnswer, UpstreamState};

/// Something that was sent.
#[derive(Clone, Debug)]
pub(super) struct ModelRequest {
    pub(super) server: ServerId,
    pub(super) socket: SocketId,
    pub(super) thread: u64,
    /// The digest of a question; none for a ping.
    question: Option<Digest>,
    sent: Instant,
    is_waiting: bool,
}

/// A server as the model sees it.
#[derive(Debug)]
struct ModelServer {
    id: ServerId,
    state: UpstreamState,
    /// Whether the last step must have made it unavailable.
    has_failed: bool,
    /// The times at which questions without a reply in time were sent, since the last reply.
    silent: Vec<Instant>,
    /// The time at which the last question with a reply was sent.
    answered: Option<Instant>,
    unmatched: u64,
}

impl ModelServer {
    /// The number of silent bursts. Those that begin less than 250 ms after the first of a burst belong to it.
    fn bursts(&self) -> usize {
        let mut rest = &self.silent[..];
        let mut bursts = 0;
        while let Some(first) = rest.first() {
            let next = rest.iter().position(|sent| *sent >= *first + Duration::from_millis(250));
            rest = next.map_or(&[], |next| &rest[next..]);
            bursts += 1;
        }
        bursts
    }
}

/// A question without an answer.
#[derive(Debug)]
struct ModelQuestion {
    digest: Digest,
    /// The number of servers that there were.
    servers: usize,
    counts: Vec<RecordCounts>,
}

/// Everything that was sent, and what is known of the servers.
#[derive(Debug)]
pub(super) struct Model {
    timeout: Duration,
    servers: Vec<ModelServer>,
    requests: Vec<ModelRequest>,
    questions: Vec<ModelQuestion>,
}

impl Model {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, servers: Vec::new(), requests: Vec::new(), questions: Vec::new() }
    }

    pub(super) fn requests(&self) -> &[ModelRequest] {
        &self.requests
    }

    /// Begins a question. Returns the servers that must be asked.
    pub(super) fn ask(&mut self, digest: Digest) -> Vec<ServerId> {
        self.questions.push(ModelQuestion { digest, servers: self.servers.len(), counts: Vec::new() });
        let is_asked = |server: &&ModelServer| {
            server.state.is_up() || server.state == UpstreamState::OnTrial && self.in_flight(server.id) == 0
        };
        self.servers.iter().filter(is_asked).map(|server| server.id).collect()
    }

    /// Takes a request.
    pub(super) fn sent(&mut self, dispatch: &Dispatch, question: Option<Digest>, sent: Instant) {
        let Dispatch { server, socket, .. } = *dispatch;
        let request =
            ModelRequest { server, socket, thread: thread(dispatch), question, sent, is_waiting: true };
        assert!((1024..65_536).contains(&request.thread), "{request:?}");
        let key = |request: &ModelRequest| (request.server, request.socket, request.thread);
        assert!(
            !self.requests.iter().any(|other| key(other) == key(&request)),
            "{request:?} is not the first"
        );
        self.requests.push(request);
    }

    /// Takes what came of sending a question.
    pub(super) fn dispatched(&mut self, dispatch: &Dispatch, outcome: &DispatchOutcome) {
        match outcome {
            DispatchOutcome::Sent => {}
            DispatchOutcome::Blocked => {
                let (server, thread) = (dispatch.server, thread(dispatch));
                let is_it = |request: &&mut ModelRequest| {
                    (request.server, request.socket, request.thread) == (server, dispatch.socket, thread)
                };
                self.requests.iter_mut().filter(is_it).for_each(|request| request.is_waiting = false);
            }
            DispatchOutcome::Failed(_) => self.fail(dispatch.server),
        }
    }

    /// The server cannot be reached.
    pub(super) fn fail(&mut self, id: ServerId) {
        let Some(server) = self.servers.iter_mut().find(|server| server.id == id) else { return };
        server.has_failed = true;
        if server.state == UpstreamState::Unavailable {
            return;
        }
        server.state = UpstreamState::Unavailable;
        (server.silent, server.answered) = (Vec::new(), None);
        let of_server = self.requests.iter_mut().filter(|request| request.server == id);
        of_server.for_each(|request| request.is_waiting = false);
    }

    /// Ends what has waited long enough.
    pub(super) fn poll(&mut self, now: Instant) {
        for index in 0..self.requests.len() {
            let ModelRequest { server: id, question, sent, is_waiting, .. } = self.requests[index];
            let wait =
                if question.is_some() { self.timeout } else { self.timeout.max(Duration::from_secs(2)) };
            if !is_waiting || now < sent + wait {
                continue;
            }
            self.requests[index].is_waiting = false;
            let server = self.servers.iter_mut().find(|server| server.id == id && question.is_some());
            let Some(server) = server else { continue };
            if server.answered.is_none_or(|answered| sent > answered) {
                server.silent.push(sent);
            }
            if server.state == UpstreamState::OnTrial || server.bursts() == 3 {
                self.fail(id);
            }
        }
    }

    /// Takes a datagram. Returns whether it is the reply to a request that waits.
    pub(super) fn received(&mut self, at: &ModelRequest, datagram: &[u8]) -> bool {
        let Some(server) = self.servers.iter_mut().find(|server| server.id == at.server) else {
            return false;
        };
        let reply = ReceivedReply::parse(datagram);
        let is_it = |request: &&mut ModelRequest| {
            request.is_waiting
                && (request.server, request.socket) == (at.server, at.socket)
                && reply.is_some_and(|reply| reply.thread == request.thread)
        };
        let Some((request, reply)) = self.requests.iter_mut().find(is_it).zip(reply) else {
            server.unmatched += 1;
            return false;
        };
        request.is_waiting = false;
        let Some(digest) = request.question else { return true };
        (server.state, server.silent) = (UpstreamState::Available, Vec::new());
        server.answered = server.answered.max(Some(request.sent));
        let question = self.questions.iter_mut().find(|question| question.digest == digest);
        if let (Some(question), Some(counts), Code::Number(200)) = (question, reply.counts, reply.code) {
            question.counts.push(counts);
        }
        true
    }

    /// Takes the servers in use. What was sent to others is not waited for.
    pub(super) fn replace(&mut self, ids: &[ServerId]) {
        self.servers.retain(|server| ids.contains(&server.id));
        for id in ids {
            if !self.servers.iter().any(|server| server.id == *id) {
                let state = UpstreamState::Untried;
                let server = ModelServer {
                    id: *id,
                    state,
                    has_failed: false,
                    silent: Vec::new(),
                    answered: None,
                    unmatched: 0,
                };
                self.servers.push(server);
            }
        }
        self.servers.sort_by_key(|server| ids.iter().position(|id| *id == server.id));
        let of_others = self.requests.iter_mut().filter(|request| !ids.contains(&request.server));
        of_others.for_each(|request| request.is_waiting = false);
    }

    /// Compares the states. Only the reply to a ping leads to a state that the model does not know: a trial.
    pub(super) fn observe(&mut self, states: &[UpstreamState]) {
        assert_eq!(states.len(), self.servers.len());
        for (server, state) in self.servers.iter_mut().zip(states) {
            let has_failed = std::mem::take(&mut server.has_failed);
            if server.state == UpstreamState::Unavailable && *state == UpstreamState::OnTrial {
                assert!(!has_failed);
                server.state = *state;
                let of_server = self.requests.iter_mut().filter(|request| request.server == server.id);
                of_server.for_each(|request| request.is_waiting = false);
            }
            assert_eq!(server.state, *state);
        }
    }

    /// Takes the answers to questions that no server is waited for.
    pub(super) fn take_answers(&mut self) -> Vec<UpstreamAnswer> {
        let requests = &self.requests;
        let is_complete = |question: &mut ModelQuestion| {
            let of_question = |request: &&ModelRequest| request.question == Some(question.digest);
            !requests.iter().filter(of_question).any(|request| request.is_waiting)
        };
        let complete = self.questions.extract_if(.., is_complete);
        let largest = |counts: &[RecordCounts], of: fn(&RecordCounts) -> i64| {
            counts.iter().map(of).max().map(|count| count.max(0))
        };
        let counts = |counts: &[RecordCounts]| {
            let reports = largest(counts, |counts| counts.reports)?;
            Some(RecordCounts { reports, whitelists: largest(counts, |counts| counts.whitelists)? })
        };
        complete
            .map(|question| UpstreamAnswer {
                digest: question.digest,
                counts: counts(&question.counts),
                is_complete: question.servers > 0 && question.counts.len() == question.servers,
            })
            .collect()
    }

    /// Whether any server takes a question.
    pub(super) fn readiness(&self) -> Readiness {
        let is_free =
            |server: &ModelServer| server.state == UpstreamState::OnTrial && self.in_flight(server.id) == 0;
        if self.servers.iter().any(|server| server.state.is_up()) {
            Readiness::Ready
        } else if self.servers.iter().any(is_free) {
            Readiness::OneQuestion
        } else {
            Readiness::Unready
        }
    }

    /// The number of questions that wait for this server.
    pub(super) fn in_flight(&self, id: ServerId) -> u64 {
        let is_it = |request: &&ModelRequest| {
            request.server == id && request.is_waiting && request.question.is_some()
        };
        self.requests.iter().filter(is_it).count() as u64
    }

    /// The number of datagrams from this server that were replies to nothing.
    pub(super) fn unmatched(&self, id: ServerId) -> u64 {
        self.servers.iter().find(|server| server.id == id).map_or(0, |server| server.unmatched)
    }

    /// The time at which the first question ends.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let waiting = self.requests.iter().filter(|request| request.is_waiting && request.question.is_some());
        waiting.map(|request| request.sent + self.timeout).min()
    }

    /// Whether all questions are answered.
    pub(super) fn is_finished(&self) -> bool {
        self.questions.is_empty()
    }
}
