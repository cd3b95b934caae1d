//! Outages: how they begin and end.

use std::time::{Duration, Instant};

use super::{Delivery, Event, PING_PAUSE, SILENT_IN_ROW, Strays, WINDOW};
use crate::forward::ForwardState;
use crate::remotes::STEADY;

impl Delivery {
    /// The server is silent: it is sent requests again after a pause that grows.
    pub(super) fn fell_silent(&mut self, now: Instant) {
        self.trial.begin(self.is_steady(now), now);
        self.failed(self.silence(), now);
    }

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

    /// Whether the server was never tried, or has replied to requests for a while.
    fn is_steady(&self, now: Instant) -> bool {
        match self.state {
            ForwardState::Untried => true,
            ForwardState::Available | ForwardState::CatchingUp if self.outage.is_none() => {
                now.saturating_duration_since(self.steady_since) >= STEADY
            }
            _ => false,
        }
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
        (self.addresses, self.unresolved) = (addresses, None);
        if is_changed {
            // Not more often, because a name may have other addresses each time.
            self.next_ping = self.last_ping.map_or(now, |last| (last + PING_PAUSE).max(now));
        }
    }

    /// The server has replied in time to a request that was sent at this time.
    pub(super) fn answered(&mut self, sent: Instant, now: Instant) {
        self.silent_in_row = 0;
        self.answered_sent = self.answered_sent.max(Some(sent));
        self.strays = Strays::default();
        if self.state == ForwardState::Unavailable {
            self.trial.forgive();
        }
        self.heard(now);
        self.end_outage(now);
    }

    /// The server has replied in time to a request or a ping.
    pub(super) fn heard(&mut self, now: Instant) {
        match self.state {
            ForwardState::Untried => {
                (self.state, self.since, self.steady_since) = (ForwardState::Available, now, now);
            }
            ForwardState::Unavailable if self.trial.is_over(now) => {
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
            ForwardState::Unavailable => {
                self.ponged = Some(now);
                self.reason = self.silence();
            }
            ForwardState::Available | ForwardState::CatchingUp => {}
        }
    }

    /// Ends the pause before a trial if the server replies to pings: there is little time left.
    pub(in crate::forward) fn end_pause(&mut self, now: Instant) {
        let is_recent = |ponged: Instant| now.saturating_duration_since(ponged) <= 2 * PING_PAUSE;
        if self.state == ForwardState::Unavailable && self.ponged.is_some_and(is_recent) {
            self.trial.forgive();
            self.heard(now);
        }
    }

    /// The server has replied too late to a request or a ping.
    pub(super) fn replied_late(&mut self) {
        self.strays.are_late = true;
        if self.state == ForwardState::Unavailable {
            self.reason = self.silence();
        }
    }

    /// Returns what the absence of replies in time means, for operators.
    pub(super) fn silence(&self) -> String {
        let row = format!("no reply to {SILENT_IN_ROW} requests in a row");
        match self.strays {
            Strays { are_late: true, .. } => {
                format!("its replies come later than Timeout ({} s)", self.settings.timeout.as_secs())
            }
            Strays { are_unknown: true, .. } => format!("{row}, and its replies name none of them"),
            _ if self.outage.is_some() => "it replies to pings, but not to requests".to_owned(),
            _ => row,
        }
    }

    /// Requests are answered, or there are none: from now on the window is open again.
    pub(super) fn end_outage(&mut self, now: Instant) {
        if let Some(begin) = self.outage.take() {
            self.steady_since = now;
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
