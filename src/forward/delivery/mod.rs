//! Delivery to one server, without sockets and clocks: what is sent when, and what replies and their absence mean.
//!
//! The task of the server asks [`Delivery::poll`] what to do, does it, and reports what came of it and what arrived.

mod flight;
mod observe;
mod outage;
mod past;
mod replies;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::op::Op;
use pyzor_wire::request_writer::{Extension, Signer, write_request};

use self::flight::Flight;
use self::past::PastThreads;
use self::tally::Tally;
use super::{ForwardState, ForwardUnit};
use crate::record::TallyKind;
use crate::remotes::{RandomNumbers, TrialPause};

/// The most requests that wait for a reply.
const WINDOW: usize = 32;
/// The number of silent requests in a row after which a server is unavailable.
const SILENT_IN_ROW: u32 = 3;
/// The time between two pings to an unavailable server.
const PING_PAUSE: Duration = Duration::from_secs(2);
/// The pause after the send buffer was full.
const BLOCKED_PAUSE: Duration = Duration::from_millis(10);
/// How much is sent at once at most when a timer is late, at the rate of catching up.
const CATCH_UP_SLACK: Duration = Duration::from_millis(10);
/// The usual length of a request with all its digests, in bytes.
const REQUEST_LENGTH: usize = 768;

/// The settings of delivery.
#[derive(Clone, Debug)]
pub(super) struct DeliverySettings {
    pub(super) signer: Arc<Signer>,
    /// The longest wait for a reply.
    pub(super) timeout: Duration,
    /// How often an unanswered request is sent again.
    pub(super) retries: u32,
    /// The most requests per second while a queue is emptied after an outage.
    pub(super) rate: u32,
}

/// What the task does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Sends this request, and reports what came of it.
    Send(&'a [u8]),
    /// Connects to the next address, and sends this ping.
    Ping(&'a [u8]),
    /// Waits for this time, or for any other event.
    Wait(Option<Instant>),
}

/// The reason why a request has not left this machine.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The send buffer is full.
    Blocked,
    /// Another error: the server cannot be reached.
    Failed(String),
}

/// What operators should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The server has become unavailable, for this reason.
    Gone(String),
    /// The server takes requests again, after an outage of this length.
    Back(Duration),
    /// The server has refused a request of this account with this code.
    Refused(u16, Arc<Signer>),
}

/// Datagrams from a server that are not replies in time to requests.
#[derive(Clone, Copy, Debug, Default)]
struct Strays {
    /// Replies to requests or pings have come later than the timeout.
    are_late: bool,
    /// Replies have named no request.
    are_unknown: bool,
}

/// The state of delivery to one server.
#[derive(Debug)]
pub(super) struct Delivery {
    settings: DeliverySettings,
    random: RandomNumbers,
    state: ForwardState,
    since: Instant,
    /// The beginning of an outage. It lasts until the server replies to a request, or replies to a ping when there is
    /// nothing to send.
    outage: Option<Instant>,
    /// The time since when the server has replied to requests, if there is no outage.
    steady_since: Instant,
    /// The reason of an outage.
    reason: String,
    /// The number of known addresses.
    addresses: usize,
    /// The time at which the first look-up of the name has taken too long; none: it has ended.
    unresolved: Option<Instant>,
    /// Requests that wait for a reply.
    in_flight: Vec<Flight>,
    /// Requests that were under way when the server became unavailable.
    unanswered: Vec<Flight>,
    /// Requests that are sent again after an outage.
    again: VecDeque<Flight>,
    /// The request of the last [`Step::Send`].
    prepared: Option<Flight>,
    ping: Vec<u8>,
    /// Pings that may be answered.
    pings: PastThreads,
    /// Requests and pings without a reply in time.
    over: PastThreads,
    /// What has arrived since the last reply in time to a request, and does not count as one.
    strays: Strays,
    trial: TrialPause,
    /// Silent requests, of those that were sent after the last one with a reply in time.
    silent_in_row: u32,
    /// The time at which that one was sent.
    answered_sent: Option<Instant>,
    /// The last reply to a ping in a pause before a trial.
    ponged: Option<Instant>,
    last_ping: Option<Instant>,
    next_ping: Instant,
    /// Nothing is sent before this time.
    not_before: Instant,
    /// The number of queued requests to which the rate applies, while catching up; none: not known yet.
    backlog: Option<usize>,
    /// Whether the queue is emptied without regard to the rate.
    is_stopping: bool,
    tally: Tally,
    events: Vec<Event>,
}

impl Delivery {
    pub(super) fn new(settings: DeliverySettings, now: Instant) -> Self {
        let settings_timeout = settings.timeout;
        Self {
            settings,
            random: RandomNumbers::default(),
            state: ForwardState::Untried,
            since: now,
            outage: None,
            steady_since: now,
            reason: String::new(),
            addresses: 0,
            unresolved: Some(now + settings_timeout),
            in_flight: Vec::new(),
            unanswered: Vec::new(),
            again: VecDeque::new(),
            prepared: None,
            ping: Vec::new(),
            pings: PastThreads::default(),
            over: PastThreads::default(),
            strays: Strays::default(),
            trial: TrialPause::default(),
            silent_in_row: 0,
            answered_sent: None,
            ponged: None,
            last_ping: None,
            next_ping: now,
            not_before: now,
            backlog: None,
            is_stopping: false,
            tally: Tally::default(),
            events: Vec::new(),
        }
    }

    /// Returns what to do next. `time` is the time of signing, `next` takes a request out of the queue.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        time: i64,
        is_connected: bool,
        next: impl FnOnce() -> Option<Arc<ForwardUnit>>,
    ) -> Step<'_> {
        self.expire(now);
        if self.state == ForwardState::Untried && self.unresolved.is_some_and(|time| now >= time) {
            self.failed("its name is still being looked up".to_owned(), now);
        }
        if self.state == ForwardState::Unavailable {
            if now < self.next_ping {
                return Step::Wait(self.next_time(now));
            }
            self.last_ping = Some(now);
            self.next_ping = now + PING_PAUSE;
            let thread = self.thread();
            self.pings.add(thread, now);
            write_request(
                &mut self.ping,
                Op::Ping,
                &[],
                Extension::Nothing,
                thread,
                &self.settings.signer,
                time,
            );
            return Step::Ping(&self.ping);
        }
        if is_connected && now >= self.not_before && self.prepare(now, time, next) {
            return Step::Send(self.prepared.as_ref().map_or(&[], |flight| &flight.datagram));
        }
        Step::Wait(self.next_time(now))
    }

    /// Chooses the next request to send. Returns whether there is one.
    fn prepare(&mut self, now: Instant, time: i64, next: impl FnOnce() -> Option<Arc<ForwardUnit>>) -> bool {
        let retries = self.settings.retries;
        let is_due = |flight: &Flight| flight.repetition(retries).is_some_and(|at| now >= at);
        if let Some(index) = self.in_flight.iter().position(is_due) {
            let flight = self.in_flight.remove(index);
            self.prepared = Some(self.signed_again(flight, time));
            return true;
        }
        if self.is_window_full() {
            return false;
        }
        self.prepared = self.again.pop_front().map(|flight| self.signed_again(flight, time));
        if self.prepared.is_none() {
            if self.state == ForwardState::CatchingUp && self.backlog == Some(0) && self.outage.is_none() {
                (self.state, self.since) = (ForwardState::Available, now);
            }
            self.backlog = self.backlog.map(|backlog| backlog.saturating_sub(1));
            self.prepared = next().map(|unit| self.flight(unit, now, time));
        }
        if self.prepared.is_none() && self.state == ForwardState::CatchingUp {
            (self.state, self.since) = (ForwardState::Available, now);
            self.end_outage(now);
        }
        self.prepared.is_some()
    }

    /// Signs a request with the account in use, if it is another one than before: the other server recognizes the request
    /// by its id.
    fn signed_again(&mut self, flight: Flight, time: i64) -> Flight {
        if flight.signer == self.settings.signer {
            return flight;
        }
        let Flight { first_sent, last_sent, has_left, sendings, unit, .. } = flight;
        let signed = self.flight(unit, first_sent, time);
        Flight { last_sent, has_left, sendings, ..signed }
    }

    fn flight(&mut self, unit: Arc<ForwardUnit>, now: Instant, time: i64) -> Flight {
        let thread = self.thread();
        let signer = Arc::clone(&self.settings.signer);
        let op = match unit.kind {
            TallyKind::Report => Op::Report,
            TallyKind::Whitelist => Op::Whitelist,
        };
        let mut datagram = Vec::with_capacity(REQUEST_LENGTH);
        let id = Extension::ForwardId(&unit.id);
        write_request(&mut datagram, op, &unit.digests, id, thread, &signer, time);
        Flight {
            thread,
            unit,
            signer,
            datagram,
            first_sent: now,
            last_sent: now,
            has_left: false,
            sendings: 0,
        }
    }

    /// Returns a random `Thread` that no request under way has, nor one to which a late reply may come.
    fn thread(&mut self) -> u16 {
        loop {
            let thread = self.random.thread();
            let is_past = self.pings.has(thread) || self.over.has(thread);
            if !is_past && !self.flights().any(|flight| flight.thread == thread) {
                return thread;
            }
        }
    }

    fn flights(&self) -> impl Iterator<Item = &Flight> {
        self.in_flight.iter().chain(&self.unanswered).chain(&self.again)
    }

    /// Tells how many requests are queued, if an outage has just ended: the rate applies to these, and not to those that
    /// are queued later.
    pub(super) fn catch_up(&mut self, queued: impl FnOnce() -> usize) {
        if self.state == ForwardState::CatchingUp && self.backlog.is_none() {
            self.backlog = Some(queued());
        }
    }

    /// The request of the last [`Step::Send`] has left.
    pub(super) fn sent(&mut self, now: Instant) {
        let Some(mut flight) = self.prepared.take() else { return };
        self.tally.sent(!flight.has_left);
        if !flight.has_left {
            (flight.has_left, flight.first_sent) = (true, now);
        }
        flight.last_sent = now;
        flight.sendings += 1;
        self.in_flight.push(flight);
        if self.state == ForwardState::CatchingUp && !self.is_stopping {
            let earliest = now.checked_sub(CATCH_UP_SLACK).unwrap_or(now);
            self.not_before =
                self.not_before.max(earliest) + Duration::from_secs(1) / self.settings.rate.max(1);
        }
    }

    /// The request of the last [`Step::Send`] has not left. Returns it if it never did: it belongs back into the queue.
    pub(super) fn unsent(&mut self, reason: Unsent, now: Instant) -> Option<Arc<ForwardUnit>> {
        let flight = self.prepared.take();
        let mut unit = None;
        match flight {
            Some(flight) if !flight.has_left => unit = Some(flight.unit),
            Some(flight) => self.again.push_front(flight),
            None => {}
        }
        match reason {
            Unsent::Blocked => self.not_before = now + BLOCKED_PAUSE,
            Unsent::Failed(reason) => self.failed(reason, now),
        }
        unit
    }

    /// Returns the time at which something is due without another event.
    fn next_time(&self, now: Instant) -> Option<Instant> {
        let DeliverySettings { retries, timeout, .. } = self.settings;
        let of_flight =
            |flight: &Flight| flight.repetition(retries).unwrap_or_else(|| flight.deadline(timeout));
        let flights = self.in_flight.iter().map(of_flight);
        let unanswered = self.unanswered.iter().map(|flight| flight.expiry(retries, timeout));
        let own = match self.state {
            ForwardState::Unavailable => Some(self.next_ping),
            _ => Some(self.not_before),
        };
        let look_up = self.unresolved.filter(|_| self.state == ForwardState::Untried);
        // What is due already waits for something else.
        flights.chain(unanswered).chain(own).chain(look_up).filter(|time| *time > now).min()
    }

    /// From now on the queue is emptied as fast as the server replies.
    pub(super) fn hurry(&mut self, now: Instant) {
        (self.is_stopping, self.not_before) = (true, now);
        self.end_pause(now);
    }

    /// Sets the longest wait for a reply.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.settings.timeout = timeout;
    }

    /// Signs what is sent from now on with another account, also what is sent again. Returns the one before, if it is another.
    pub(super) fn set_signer(&mut self, signer: Signer) -> Option<Arc<Signer>> {
        (*self.settings.signer != signer)
            .then(|| std::mem::replace(&mut self.settings.signer, Arc::new(signer)))
    }

    /// Takes what operators should know.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Gives up everything under way. Returns the number of digests that remain without a reply.
    pub(super) fn abandon(&mut self, now: Instant) -> u64 {
        let again = self.again.drain(..);
        let all: Vec<Flight> =
            self.in_flight.drain(..).chain(self.unanswered.drain(..)).chain(again).collect();
        all.iter().for_each(|flight| self.tally.silent(flight, now));
        all.iter().map(Flight::digests).sum()
    }
}
