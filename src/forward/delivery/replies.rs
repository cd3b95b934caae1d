//! What replies and their absence mean.

use std::time::Instant;

use pyzor_wire::reply_reader::{Code, ReceivedReply};

use super::flight::Flight;
use super::{Delivery, DeliverySettings, Event, SILENT_IN_ROW};
use crate::forward::ForwardState;
use crate::remotes::LOWEST_THREAD;

/// The code of a server that has failed to count some of the digests.
const FAILURE: Code = Code::Number(500);

impl Delivery {
    /// A datagram from the server has arrived.
    pub(in crate::forward) fn received(&mut self, datagram: &[u8], now: Instant) {
        let reply = ReceivedReply::parse(datagram);
        // A server that cannot read a request replies without a thread.
        if reply.is_none() && !datagram.starts_with(b"Code:") {
            return;
        }
        let thread = reply.and_then(|reply| u16::try_from(reply.thread).ok());
        let mut has_answered = false;
        match (thread.filter(|thread| *thread >= LOWEST_THREAD), reply) {
            (Some(thread), Some(reply)) => {
                if reply.code == FAILURE && self.will_repeat(thread) {
                    has_answered = true;
                } else if let Some(flight) = self.take(thread) {
                    has_answered = true;
                    let refused = self.tally.answered(&flight, reply.code, now);
                    self.events.extend(refused.map(Event::Refused));
                }
            }
            // During an outage, it is the reply to a ping.
            _ if self.state == ForwardState::Unavailable => {}
            // A refusal of a request that is not known, because the server could not read its thread.
            _ => {
                let code = code_without_thread(datagram);
                has_answered = code.is_some();
                self.events.extend(code.map(Event::Refused));
            }
        }
        self.heard(has_answered, now);
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
            self.tally.silent(&flight, now);
            self.silent_in_row += 1;
            if self.silent_in_row >= SILENT_IN_ROW {
                // The other requests under way are kept: with retries they are sent again after the outage.
                self.failed(format!("no reply to {SILENT_IN_ROW} requests in a row"), now);
            }
        }
        let is_too_old = |flight: &Flight| now >= flight.expiry(retries, timeout);
        for flight in self.unanswered.extract_if(.., |flight| is_too_old(flight)) {
            self.tally.silent(&flight, now);
        }
        while self.again.front().is_some_and(is_too_old) {
            self.again.pop_front().iter().for_each(|flight| self.tally.silent(flight, now));
        }
    }
}

/// Returns the code of a reply that begins with one and has no usable thread, unless it is a success.
fn code_without_thread(datagram: &[u8]) -> Option<u16> {
    let line = datagram.split(|byte| *byte == b'\n').next()?;
    let code = std::str::from_utf8(line.strip_prefix(b"Code:")?).ok()?.trim().parse().ok()?;
    (code != 200).then_some(code)
}
