//! The path of a received batch: datagram → admission → handler → step.
//!
//! Admission checks the source network and the rate limits before a datagram is parsed, and, once the handler has
//! decided on it, the limits on refusals and writes and the signatures of counted requests.

use std::net::IpAddr;
use std::time::Instant;

use tracing::warn;

use super::Server;
use super::replay::{ReplayGuard, ReplayMark, ReplayStatus};
use super::work::{self, EngineWork};
use crate::handler::{Decision, NextStep};
use crate::limits::{Admission, AdmittedSource, Gate, RateLimit};
use crate::logging::allowance::Allowance;
use crate::stats::{DropCause, ServerStats};
use pyzor_udp::ReplyTo;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{Answer, Refusal};
use pyzor_wire::request::Request;

/// The checks on received datagrams and requests that can drop them.
pub(super) struct AdmissionControl {
    /// The networks and rate limits; none: every source is accepted, without limits.
    pub(super) gate: Option<Gate>,
    /// The replay protection; none: copies of signed requests are counted again.
    pub(super) replays: Option<ReplayGuard>,
}

/// The answer of admission to a request that the handler has decided on.
enum RequestAdmission {
    /// Take the step. The mark identifies a signed request, whose copies must not be counted.
    Admitted(Option<ReplayMark>),
    /// A copy of a request that has been counted: reply as if it were counted again.
    AlreadyCounted(Op),
    /// Beyond a rate limit: no reply. Or a copy of a request in flight, which is replied to when that finishes.
    Dropped,
}

impl Server {
    /// Handles every received datagram: replies to requests that need no engine, and returns the others.
    pub(super) fn decide(&mut self, received: Instant) -> EngineWork {
        let mut work = self.spare_works.pop().unwrap_or_default();
        work.restart();
        let access = self.access.load();
        let now = (self.clock)();
        self.admission.begin_batch(received);
        for (datagram, reply_to) in self.inbox.datagrams() {
            let peer = reply_to.peer;
            let Some(source) = self.admission.admit_source(peer.ip(), &self.stats) else { continue };
            if self.debugging {
                work::log_received(datagram);
            }
            let Some(decision) = self.handler.decide(datagram, peer, now, &access) else {
                let is_empty = datagram.is_empty() || peer.port() == 0;
                self.stats.drops.add(if is_empty { DropCause::Empty } else { DropCause::Reply }, 1);
                continue;
            };
            if self.debugging {
                work::log_decided(&decision, peer);
            }
            let (step, mark) = match self.admission.admit_request(source, &decision, reply_to, &self.stats) {
                RequestAdmission::Admitted(mark) => (decision.step, mark),
                RequestAdmission::AlreadyCounted(op) => (NextStep::Answer(op, Answer::Done), None),
                RequestAdmission::Dropped => continue,
            };
            let request = &decision.request;
            self.replies.count_user(request);
            match step {
                NextStep::Refuse(refusal) => {
                    if refusal == Refusal::MalformedVersion {
                        warn_of_version(&mut self.complaints, request);
                    }
                    self.replies.refuse(reply_to, request, refusal);
                }
                NextStep::Answer(op, answer) => self.replies.answer(reply_to, request, op, answer),
                NextStep::LookUp(op, digest) => {
                    work.look_up(reply_to, request, op, digest, self.replies.usage.enabled());
                }
                NextStep::Count(op, kind, digests) => {
                    work.count(reply_to, request, op, kind, digests, self.replies.usage.enabled());
                    mark.into_iter().for_each(|mark| work.mark(mark));
                }
            }
        }
        self.replies.received(received);
        work
    }
}

impl AdmissionControl {
    /// Sets the time for the rate limits. Once per batch is enough.
    fn begin_batch(&mut self, now: Instant) {
        if let Some(gate) = &mut self.gate {
            gate.set_time(now);
        }
    }

    /// Returns the source of a datagram if its network and rate are accepted.
    fn admit_source(&mut self, address: IpAddr, stats: &ServerStats) -> Option<AdmittedSource> {
        let Some(gate) = &mut self.gate else { return Some(AdmittedSource::unlimited(address)) };
        match gate.enter(address) {
            Admission::Admitted(source) => Some(source),
            Admission::Denied => {
                stats.drops.add(DropCause::DeniedNetwork, 1);
                None
            }
            Admission::Exceeds => {
                stats.drops.add(DropCause::RateLimit, 1);
                None
            }
        }
    }

    /// Applies the limits on refusals and anonymous writes to a request, and looks for an earlier copy of it.
    fn admit_request(
        &mut self,
        source: AdmittedSource,
        Decision { request, step }: &Decision<'_>,
        reply_to: ReplyTo,
        stats: &ServerStats,
    ) -> RequestAdmission {
        match *step {
            NextStep::Refuse(_) if self.exceeds(source, RateLimit::Errors) => {
                stats.drops.add(DropCause::RateLimitErrors, 1);
                RequestAdmission::Dropped
            }
            NextStep::Count(..) if request.is_anonymous() && self.exceeds(source, RateLimit::Writes) => {
                stats.drops.add(DropCause::RateLimitWrites, 1);
                RequestAdmission::Dropped
            }
            NextStep::Count(op, ..) => self.admit_signed(op, request, reply_to, stats),
            NextStep::Refuse(_) | NextStep::Answer(..) | NextStep::LookUp(..) => {
                RequestAdmission::Admitted(None)
            }
        }
    }

    fn admit_signed(
        &mut self,
        op: Op,
        request: &Request<'_>,
        reply_to: ReplyTo,
        stats: &ServerStats,
    ) -> RequestAdmission {
        let Some(replays) = &mut self.replays else { return RequestAdmission::Admitted(None) };
        let Some(mark) = ReplayMark::of(request) else { return RequestAdmission::Admitted(None) };
        match replays.check(mark, reply_to) {
            ReplayStatus::New => RequestAdmission::Admitted(Some(mark)),
            ReplayStatus::Counted => {
                stats.replays.add(1);
                RequestAdmission::AlreadyCounted(op)
            }
            ReplayStatus::InFlight => {
                stats.replays.add(1);
                RequestAdmission::Dropped
            }
            ReplayStatus::TooMany => {
                stats.drops.add(DropCause::Shed, 1);
                RequestAdmission::Dropped
            }
        }
    }

    fn exceeds(&mut self, source: AdmittedSource, limit: RateLimit) -> bool {
        self.gate.as_mut().is_some_and(|gate| gate.exceeds(source, limit))
    }
}

/// Logs a malformed protocol version. Rate-limited, because any client can send one.
fn warn_of_version(complaints: &mut Allowance, request: &Request<'_>) {
    if complaints.take(Instant::now()).is_some() {
        warn!("Invalid PV: {}", request.version.unwrap_or_default().escape_ascii());
    }
}
