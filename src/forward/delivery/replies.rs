//! What replies and their absence mean.

use std::sync::Arc;
use std::time::Instant;

use pyzor_wire::reply_reader::{Code, ReceivedReply};

use super::flight::Flight;
use super::{Delivery, DeliverySettings, Event, SILENT_IN_ROW};
use crate::forward::ForwardState;
use crate::remotes::LOWEST_THREAD;

/// The code of a server that has failed to count some of the digests.
const FAILURE: Code = Code::Number(500);

impl Delivery {
    /// A datagram from the server has arrived. Only the reply to a request or a ping has an effect, and only one in time
    /// shows that the server takes requests.
    pub(in crate::forward) fn received(&mut self, datagram: &[u8], now: Instant) {
        let reply = ReceivedReply::parse(datagram);
        // A server that cannot read a request replies without a thread.
        if reply.is_none() && !datagram.starts_with(b"Code:") {
            return;
        }
        let thread = reply.and_then(|reply| u16::try_from(reply.thread).ok());
        let Some((thread, reply)) = thread.filter(|thread| *thread >= LOWEST_THREAD).zip(reply) else {
            return self.received_without_thread(datagram);
        };
        if self.take_reply(thread, reply, now) {
            return;
        }
        if let Some(sent) = self.pings.take(thread) {
            self.take_pong(sent, now);
        } else if self.over.take(thread).is_some() {
            self.replied_late();
        } else {
            self.strays.are_unknown = true;
        }
    }

    /// Takes the reply to a request that waits for one. Returns whether there is such a request.
    fn take_reply(&mut self, thread: u16, reply: ReceivedReply, now: Instant) -> bool {
        let DeliverySettings { retries, timeout, .. } = self.settings;
        let Some(flight) = self.flights().find(|flight| flight.thread == thread) else { return false };
        // Others are silent from their deadline on, and their time is over only when that was noticed.
        let waits_for_end = !self.in_flight.iter().any(|flight| flight.thread == thread);
        let is_late = retries > 0 && waits_for_end && now >= flight.deadline(timeout);
        let sent = flight.last_sent;
        let is_final = reply.code != FAILURE || !self.will_repeat(thread);
        if let Some(flight) = is_final.then(|| self.take(thread)).flatten() {
            let refused = self.tally.answered(&flight, reply.code, now);
            self.events.extend(refused.map(|code| Event::Refused(code, Arc::clone(&flight.signer))));
        }
        match is_late {
            true => self.replied_late(),
            false => self.answered(sent, now),
        }
        true
    }

    /// Takes the reply to a ping that was sent at this time.
    fn take_pong(&mut self, sent: Instant, now: Instant) {
        if self.state != ForwardState::Unavailable {
            return;
        }
        if now.saturating_duration_since(sent) < self.settings.timeout {
            self.heard(now);
        } else {
            self.replied_late();
        }
    }

    /// Takes a refusal of a request that is not known, because the server could not read its thread.
    fn received_without_thread(&mut self, datagram: &[u8]) {
        self.strays.are_unknown = true;
        // During an outage, it is the reply to a ping.
        if self.state != ForwardState::Unavailable {
            let code = code_without_thread(datagram);
            let signer = &self.settings.signer;
            self.events.extend(code.map(|code| Event::Refused(code, Arc::clone(signer))));
        }
    }

    /// Whether the request with this thread will be sent again. A failure says nothing then: the database of the server
    /// may be available again, and a server of this package counts a request of which it has counted nothing.
    fn will_repeat(&self, thread: u16) -> bool {
        let retries = self.settings.retries;
        let is_repeated = |flight: &Flight| flight.thread == thread && flight.repetition(retries).is_some();
        let is_it = |flight: &Flight| flight.thread == thread;
        self.in_flight.iter().any(is_repeated)
            || retries > 0 && self.unanswered.iter().chain(&self.again).any(is_it)
    }

    /// Takes the request with this thread out of those under way.
    fn take(&mut self, thread: u16) -> Option<Flight> {
        let is_it = |flight: &Flight| flight.thread == thread;
        if let Some(index) = self.in_flight.iter().position(is_it) {
            return Some(self.in_flight.remove(index));
        }
        if let Some(index) = self.unanswered.iter().position(is_it) {
            return Some(self.unanswered.remove(index));
        }
        self.again.iter().position(is_it).and_then(|index| self.again.remove(index))
    }

    /// Finds the requests whose time has come to be silent.
    pub(super) fn expire(&mut self, now: Instant) {
        let DeliverySettings { retries, timeout, .. } = self.settings;
        let is_over =
            |flight: &Flight| flight.repetition(retries).is_none() && now >= flight.deadline(timeout);
        while let Some(index) = self.in_flight.iter().position(is_over) {
            let flight = self.in_flight.remove(index);
            self.give_up(&flight, now);
            // A reply comes sooner than silence is certain: only the order of sending tells what is in a row.
            if self.answered_sent.is_none_or(|answered| flight.last_sent > answered) {
                self.silent_in_row += 1;
            }
            if self.outage.is_some() || self.silent_in_row >= SILENT_IN_ROW {
                // The other requests under way are kept: with retries they are sent again after the outage.
                self.fell_silent(now);
            }
        }
        let is_too_old = |flight: &Flight| now >= flight.expiry(retries, timeout);
        let unanswered: Vec<Flight> = self.unanswered.extract_if(.., |flight| is_too_old(flight)).collect();
        unanswered.iter().for_each(|flight| self.give_up(flight, now));
        while self.again.front().is_some_and(is_too_old) {
            self.again.pop_front().iter().for_each(|flight| self.give_up(flight, now));
        }
    }

    /// Counts a request without a reply. One may still come, too late.
    fn give_up(&mut self, flight: &Flight, now: Instant) {
        self.tally.silent(flight, now);
        self.over.add(flight.thread, now);
    }
}

/// Returns the code of a reply that begins with one and has no usable thread, unless it is a success.
fn code_without_thread(datagram: &[u8]) -> Option<u16> {
    let line = datagram.split(|byte| *byte == b'\n').next()?;
    let code = std::str::from_utf8(line.strip_prefix(b"Code:")?).ok()?.trim().parse().ok()?;
    (code != 200).then_some(code)
}
