//! One server that is asked, without sockets and clocks: what is sent to it when, and what replies and their absence
//! mean.
//!
//! The thread sends each [`Dispatch`] and reports what came of it, and what arrived.

mod dispatch;
mod observe;
mod outage;
mod replies;
mod silence;
mod sockets;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;
use pyzor_wire::request_writer::{Extension, Signer, write_request};

use self::dispatch::Content;
pub(super) use self::dispatch::{Dispatch, DispatchOutcome, Readiness, Response, ServerEvent};
use self::silence::SilentBursts;
pub(super) use self::sockets::SocketId;
use self::sockets::Sockets;
use self::tally::Tally;
use super::UpstreamState;
use crate::remotes::{AddressList, RemoteServer, TrialPause};

/// The time between two pings to an unavailable server.
const PING_PAUSE: Duration = Duration::from_secs(2);

/// A server, also if another one has taken the place of one with the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerId(pub(super) u64);

/// A question that waits for the reply of the server.
#[derive(Debug)]
struct Part {
    socket: SocketId,
    thread: u16,
    sent: Instant,
}

/// The state of one server.
#[derive(Debug)]
pub(super) struct AskedServer {
    id: ServerId,
    remote: RemoteServer,
    timeout: Duration,
    state: UpstreamState,
    since: Instant,
    /// The beginning of an outage. It lasts until the server answers a question.
    outage: Option<Instant>,
    /// The reason of an outage.
    reason: String,
    addresses: AddressList,
    /// The address in use.
    address: Option<SocketAddr>,
    /// Whether all addresses are those of this server itself.
    is_own: bool,
    wants_look_up: bool,
    sockets: Sockets,
    /// Questions under way by their numbers, which ascend with the times at which they were sent.
    under_way: BTreeMap<u64, Part>,
    silent: SilentBursts,
    trial: TrialPause,
    last_ping: Option<Instant>,
    next_ping: Instant,
    tally: Tally,
    responses: Vec<Response>,
    events: Vec<ServerEvent>,
}

impl AskedServer {
    pub(super) fn new(id: ServerId, remote: RemoteServer, timeout: Duration, now: Instant) -> Self {
        Self {
            id,
            remote,
            timeout,
            state: UpstreamState::Untried,
            since: now,
            outage: None,
            reason: String::new(),
            addresses: AddressList::default(),
            address: None,
            is_own: false,
            wants_look_up: true,
            sockets: Sockets::default(),
            under_way: BTreeMap::new(),
            silent: SilentBursts::default(),
            trial: TrialPause::default(),
            last_ping: None,
            next_ping: now,
            tally: Tally::default(),
            responses: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Whether the server takes a question now.
    pub(super) fn readiness(&self) -> Readiness {
        match self.state {
            UpstreamState::Untried | UpstreamState::Available if self.address.is_some() => Readiness::Ready,
            UpstreamState::OnTrial if self.under_way.is_empty() => Readiness::OneQuestion,
            _ => Readiness::Unready,
        }
    }

    /// Asks a question, if the server takes one. `number` is above that of all questions before; `time` is the time of
    /// signing.
    pub(super) fn ask(&mut self, number: u64, digest: Digest, now: Instant, time: i64) -> Option<Dispatch> {
        let address = self.address.filter(|_| self.readiness() > Readiness::Unready)?;
        let mut lost = Vec::new();
        let (socket, thread) = self.sockets.add_question(number, address, now, &mut lost);
        lost.into_iter().for_each(|question| self.give_up(question, now));
        self.under_way.insert(number, Part { socket, thread, sent: now });
        self.tally.sent();
        let mut datagram = Vec::new();
        let signer = &self.remote.signer;
        write_request(&mut datagram, Op::Check, &[digest], Extension::LocalOnly, thread, signer, time);
        let content = Content::Question(number);
        Some(Dispatch { server: self.id, socket, address, datagram, content, thread })
    }

    /// Ends what has waited long enough. Returns a ping, if one is due. `time` is the time of signing.
    ///
    /// Everything that has arrived before `now` must have been reported: it is in time.
    pub(super) fn poll(&mut self, now: Instant, time: i64) -> Option<Dispatch> {
        self.expire(now);
        if self.look_up_deadline().is_some_and(|deadline| now >= deadline) {
            self.failed("its name is still being looked up".to_owned(), now);
        }
        if self.state != UpstreamState::Unavailable || now < self.next_ping {
            return None;
        }
        self.last_ping = Some(now);
        self.next_ping = now + PING_PAUSE;
        self.wants_look_up |= self.addresses.is_at_last();
        // A socket that is younger than a slow server's time for a reply is used again. After the beginning of an outage
        // the next address is tried at once.
        let oldest = now.checked_sub(self.ping_wait());
        if self.sockets.ping_socket(oldest).is_none() {
            self.address = self.addresses.advance();
            self.sockets.open_ping_socket(self.address?, now);
        }
        let (socket, address, thread) = self.sockets.add_ping(now)?;
        let mut datagram = Vec::new();
        write_request(&mut datagram, Op::Ping, &[], Extension::Nothing, thread, &self.remote.signer, time);
        Some(Dispatch { server: self.id, socket, address, datagram, content: Content::Ping, thread })
    }

    /// Reports what came of a dispatch.
    pub(super) fn dispatched(&mut self, dispatch: &Dispatch, outcome: DispatchOutcome, now: Instant) {
        match (outcome, dispatch.content) {
            (DispatchOutcome::Failed(reason), _) => self.failed(reason, now),
            (DispatchOutcome::Sent, Content::Question(number)) => {
                if let Some(part) = self.under_way.get_mut(&number) {
                    part.sent = now;
                }
            }
            (DispatchOutcome::Blocked, Content::Question(number)) => self.give_up(number, now),
            (DispatchOutcome::Sent, Content::Ping) => {
                if let Some(table) = self.sockets.find(dispatch.socket) {
                    table.set_ping_time(dispatch.thread, now);
                }
            }
            (DispatchOutcome::Blocked, Content::Ping) => {}
        }
    }

    /// Ends a question without a reply, and without a judgement on the server.
    fn give_up(&mut self, number: u64, now: Instant) {
        let Some(part) = self.under_way.remove(&number) else { return };
        if let Some(table) = self.sockets.find(part.socket) {
            table.take(part.thread);
        }
        self.sockets.tidy();
        self.tally.silent(now);
        self.responses.push(Response { question: number, counts: None });
    }

    /// Ends all questions without a reply.
    pub(super) fn give_up_all(&mut self, now: Instant) {
        while let Some((number, _)) = self.under_way.first_key_value() {
            self.give_up(*number, now);
        }
    }

    /// Returns the time from which on the server is unavailable because its name has not been resolved.
    fn look_up_deadline(&self) -> Option<Instant> {
        let is_new = self.state == UpstreamState::Untried && self.address.is_none();
        is_new.then(|| self.since + self.ping_wait())
    }

    /// Looks the name up again.
    pub(super) fn renew_addresses(&mut self) {
        self.wants_look_up = true;
    }

    /// The longest wait for the reply to a ping.
    fn ping_wait(&self) -> Duration {
        self.timeout.max(PING_PAUSE)
    }

    /// Returns the time at which something is due without another event.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let question = self.under_way.first_key_value().map(|(_, part)| part.sent + self.timeout);
        let ping = self.sockets.oldest_ping().map(|at| at + self.ping_wait());
        let next_ping = (self.state == UpstreamState::Unavailable).then_some(self.next_ping);
        [question, ping, next_ping, self.look_up_deadline()].into_iter().flatten().min()
    }

    /// Signs what is written from now on with another account. Returns the one before, if it is another.
    pub(super) fn set_signer(&mut self, signer: Signer) -> Option<Signer> {
        let old = &mut self.remote.signer;
        let before = (*old != signer).then(|| std::mem::replace(old, signer))?;
        // They say nothing about this account.
        self.tally.forget_refusals();
        Some(before)
    }

    /// Takes what became of questions.
    pub(super) fn take_responses(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.responses)
    }

    /// Takes what operators should know.
    pub(super) fn take_events(&mut self) -> Vec<ServerEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether the name must be looked up. It is so once for each time.
    pub(super) fn take_look_up(&mut self) -> bool {
        std::mem::take(&mut self.wants_look_up)
    }
}
