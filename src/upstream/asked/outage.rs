//! Outages: how they begin and end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{AskedServer, PING_PAUSE, ServerEvent, SocketId};
use crate::remotes::STEADY;
use crate::upstream::UpstreamState;

impl AskedServer {
    /// The server is silent: it is asked again after a pause that grows.
    pub(super) fn fell_silent(&mut self, reason: String, now: Instant) {
        let is_first = match self.state {
            UpstreamState::Untried => true,
            UpstreamState::Available => now.saturating_duration_since(self.since) >= STEADY,
            UpstreamState::OnTrial | UpstreamState::Unavailable => false,
        };
        self.trial.begin(is_first, now);
        self.failed(reason, now);
    }

    /// The server cannot be reached: an error of a socket, or no address, or silence. Questions under way get no reply.
    /// If the server has other addresses, the next one is tried at once.
    pub(in crate::upstream) fn failed(&mut self, reason: String, now: Instant) {
        if self.state == UpstreamState::Unavailable {
            self.reason = reason;
            return;
        }
        if self.outage.is_none() {
            self.events.push(ServerEvent::Gone(reason.clone()));
        }
        let pause = if self.addresses.len() > 1 { Duration::ZERO } else { PING_PAUSE };
        self.become_unavailable(reason, pause, now);
    }

    fn become_unavailable(&mut self, reason: String, pause: Duration, now: Instant) {
        (self.state, self.since) = (UpstreamState::Unavailable, now);
        self.outage.get_or_insert(now);
        self.reason = reason;
        let earliest = self.last_ping.map_or(now, |last| last + PING_PAUSE);
        self.next_ping = (now + pause).max(earliest);
        self.give_up_all(now);
        self.silent.reset();
        self.sockets.close();
    }

    /// An earlier datagram from this socket has met an error.
    pub(in crate::upstream) fn socket_failed(&mut self, socket: SocketId, reason: String, now: Instant) {
        // Others were closed because they say nothing about the address in use.
        if self.sockets.contains(socket) {
            self.failed(reason, now);
        }
    }

    /// The name was resolved to these addresses, which are not those of this server itself.
    pub(in crate::upstream) fn resolved(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.is_own = false;
        let is_changed = self.addresses.replace(addresses, self.address);
        let is_listed = self.address.is_some_and(|address| self.addresses.contains(address));
        match self.state {
            UpstreamState::Untried | UpstreamState::Available | UpstreamState::OnTrial if !is_listed => {
                self.address = self.addresses.advance();
            }
            // Not more often, because a name may have other addresses each time.
            UpstreamState::Unavailable if is_changed => {
                self.next_ping = self.last_ping.map_or(now, |last| (last + PING_PAUSE).max(now));
            }
            _ => {}
        }
    }

    /// The name cannot be resolved. Known addresses stay in use.
    pub(in crate::upstream) fn unresolved(&mut self, reason: String, now: Instant) {
        self.is_own = false;
        if self.addresses.len() == 0 {
            self.failed(reason, now);
        }
    }

    /// All addresses of the server are those of this server itself. Nothing is sent until its name is resolved otherwise.
    pub(in crate::upstream) fn is_own(&mut self, now: Instant) {
        self.addresses.replace(Vec::new(), None);
        (self.address, self.is_own) = (None, true);
        let reason = "its address is that of this server itself".to_owned();
        if self.state == UpstreamState::Unavailable {
            self.reason = reason;
            self.sockets.close();
        } else {
            self.become_unavailable(reason, PING_PAUSE, now);
        }
    }

    /// The server has replied in time to a ping, from this address.
    pub(super) fn ponged(&mut self, address: SocketAddr, now: Instant) {
        if self.state != UpstreamState::Unavailable {
            return;
        }
        if !self.trial.is_over(now) {
            "it replies to pings, but was silent: it is asked again after a pause"
                .clone_into(&mut self.reason);
        } else {
            (self.state, self.since) = (UpstreamState::OnTrial, now);
            self.address = Some(address);
            self.sockets.close();
        }
    }

    /// The server has replied in time to a question.
    pub(super) fn replied(&mut self, now: Instant) {
        if self.state != UpstreamState::Available {
            (self.state, self.since) = (UpstreamState::Available, now);
        }
        if let Some(begin) = self.outage.take() {
            self.events.push(ServerEvent::Back(now.saturating_duration_since(begin)));
        }
    }
}
