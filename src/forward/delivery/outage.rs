//! Outages: how they begin and end.

use std::time::{Duration, Instant};

use super::{Delivery, Event, PING_PAUSE, WINDOW};
use crate::forward::ForwardState;

impl Delivery {
    /// The server cannot be reached: an error of the socket, or no address, or silence. If it has other addresses, the
    /// next one is tried at once.
    pub(in crate::forward) fn failed(&mut self, reason: String, now: Instant) {
        if self.state == ForwardState::Unavailable {
            self.reason = reason;
            return;
        }
        if self.outage.is_none() {
            self.events.push(Event::Gone(reason.clone()));
        }
        (self.state, self.since) = (ForwardState::Unavailable, now);
        self.outage.get_or_insert(now);
        self.silent_in_row = 0;
        let pause = if self.addresses > 1 { Duration::ZERO } else { PING_PAUSE };
        let earliest = self.last_ping.map_or(now, |last| last + PING_PAUSE);
        self.next_ping = (now + pause).max(earliest);
        self.unanswered.append(&mut self.in_flight);
        self.unanswered.extend(self.again.drain(..));
        self.reason = reason;
    }

    /// All addresses of the server are those of this server itself. Nothing is sent until its name is resolved otherwise.
    pub(in crate::forward) fn is_own(&mut self, now: Instant) {
        if self.state != ForwardState::Unavailable {
            (self.state, self.since, self.next_ping) = (ForwardState::Unavailable, now, now + PING_PAUSE);
            self.outage.get_or_insert(now);
        }
        self.reason = "its address is that of this server itself".to_owned();
    }

    /// The name was resolved to this number of addresses. `is_changed`: they are not those that were known, so that an
    /// unavailable server is tried as soon as the pause between pings permits.
    pub(in crate::forward) fn resolved(&mut self, addresses: usize, is_changed: bool, now: Instant) {
        self.addresses = addresses;
        if is_changed {
            // Not more often, because a name may have other addresses each time.
            self.next_ping = self.last_ping.map_or(now, |last| (last + PING_PAUSE).max(now));
        }
    }

    /// The server is there. `has_answered`: it has replied to a request, not to a ping.
    pub(super) fn heard(&mut self, has_answered: bool, now: Instant) {
        self.silent_in_row = 0;
        match self.state {
            ForwardState::Untried => (self.state, self.since) = (ForwardState::Available, now),
            ForwardState::Unavailable => {
                (self.state, self.since, self.not_before) = (ForwardState::CatchingUp, now, now);
                self.backlog = None;
                if self.settings.retries > 0 {
                    self.unanswered.sort_by_key(|flight| flight.first_sent);
                    for mut flight in self.unanswered.drain(..) {
                        flight.sendings = 0;
                        self.again.push_back(flight);
                    }
                }
            }
            ForwardState::Available | ForwardState::CatchingUp => {}
        }
        if has_answered {
            self.end_outage(now);
        }
    }

    /// Requests are answered, or there are none: from now on the window is open again.
    pub(super) fn end_outage(&mut self, now: Instant) {
        if let Some(begin) = self.outage.take() {
            self.events.push(Event::Back(now.saturating_duration_since(begin)));
        }
    }

    /// Whether no further request may be under way.
    pub(super) fn is_window_full(&self) -> bool {
        match self.outage {
            // A server that replies to pings only must not get a whole window of requests each time.
            Some(_) => !self.in_flight.is_empty(),
            // Silent requests keep their places until a reply comes: an outage costs no more than one window.
            None => self.in_flight.len() + self.silent_in_row as usize >= WINDOW,
        }
    }
}
