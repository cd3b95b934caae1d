//! The path of a received batch: datagram → admission → handler → step.
//!
//! Admission checks the source network and the rate limits before a datagram is parsed, and, once the handler has
//! decided on it, the limits on refusals and writes, and the ids and signatures of counted requests.

use std::net::IpAddr;
use std::time::Instant;

use tracing::warn;

use super::Server;
use super::finished::LookedUpDigest;
use super::forward_ids::IdStatus;
use super::forwarding::{ForwardMark, ForwardedRequest, Forwarding};
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
    /// The ids of forwarded requests, and what is gathered to be forwarded.
    pub(super) forwarding: Forwarding,
    /// The marks of the count admitted last. Not a part of the answer, because most requests are no counts, and marks are
    /// large.
    pub(super) marks: RequestMarks,
}

/// The marks of a counted request that need its outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestMarks {
    /// Identifies a signed request, whose copies must not be counted.
    pub(super) replay: Option<ReplayMark>,
    /// Identifies a forwarded request.
    pub(super) forward: Option<ForwardMark>,
}

/// The answer of admission to a request that the handler has decided on.
#[derive(Debug)]
pub(super) enum RequestAdmission {
    /// Take the step. If it is a count, [`AdmissionControl::marks`] has its marks.
    Admitted,
    /// A copy of a request that has been counted: reply with this outcome.
    AlreadyCounted(Op, Result<(), Refusal>),
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
            let step = match self.admission.admit_request(source, &decision, reply_to, &self.stats) {
                RequestAdmission::Admitted => decision.step,
                RequestAdmission::AlreadyCounted(op, outcome) => {
                    outcome.map_or_else(NextStep::Refuse, |()| NextStep::Answer(op, Answer::Done))
                }
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
                    let digest = LookedUpDigest { digest, is_local_only: request.is_local_only };
                    work.look_up(reply_to, request, op, digest, self.replies.usage.enabled());
                }
                NextStep::Count(op, kind, digests) => {
                    work.count(reply_to, request, op, kind, digests, self.replies.usage.enabled());
                    let marks = &self.admission.marks;
                    if marks.replay.is_some() || marks.forward.is_some() {
                        work.mark(*marks);
                    }
                }
            }
        }
        self.admission.forwarding.hand_over();
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
    pub(super) fn admit_request(
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
            NextStep::Count(op, kind, digests) => {
                let forwarded = ForwardedRequest::of(request, op, kind, digests);
                if let Some(forwarded) = &forwarded
                    && let Some(admission) = self.admit_forwarded(forwarded, reply_to, stats)
                {
                    return admission;
                }
                let admission = self.admit_signed(op, request, reply_to, stats);
                if let RequestAdmission::Admitted = admission {
                    let peer = reply_to.peer.ip();
                    self.marks.forward = self.forwarding.admit(forwarded, request, kind, peer);
                }
                admission
            }
            NextStep::Refuse(_) | NextStep::Answer(..) | NextStep::LookUp(..) => RequestAdmission::Admitted,
        }
    }

    /// Looks for an earlier copy of a forwarded request, which may have come on another way. Returns none if it is new.
    fn admit_forwarded(
        &mut self,
        forwarded: &ForwardedRequest<'_>,
        reply_to: ReplyTo,
        stats: &ServerStats,
    ) -> Option<RequestAdmission> {
        match self.forwarding.check(forwarded, reply_to) {
            IdStatus::New => None,
            IdStatus::Counted { outcome, .. } => {
                stats.forward_copies.add(1);
                Some(RequestAdmission::AlreadyCounted(forwarded.op, outcome))
            }
            IdStatus::InFlight => {
                stats.forward_copies.add(1);
                Some(RequestAdmission::Dropped)
            }
            IdStatus::TooMany => {
                stats.drops.add(DropCause::Shed, 1);
                Some(RequestAdmission::Dropped)
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
        self.marks.replay = None;
        let Some(replays) = &mut self.replays else { return RequestAdmission::Admitted };
        let Some(mark) = ReplayMark::of(request) else { return RequestAdmission::Admitted };
        match replays.check(mark, reply_to) {
            ReplayStatus::New => {
                self.marks.replay = Some(mark);
                RequestAdmission::Admitted
            }
            ReplayStatus::Counted => {
                stats.replays.add(1);
                RequestAdmission::AlreadyCounted(op, Ok(()))
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

    /// Forgets a request that was dropped uncounted. Returns the number of its copies, which are dropped, too.
    pub(super) fn give_up(&mut self, marks: RequestMarks) -> usize {
        let replays = self.replays.as_mut().zip(marks.replay);
        let copies = replays.map_or(0, |(replays, mark)| replays.give_up(mark).len());
        copies + marks.forward.map_or(0, |mark| self.forwarding.give_up(mark))
    }

    /// Forgets all requests in flight, because their outcomes were lost.
    pub(super) fn give_up_all(&mut self) {
        if let Some(replays) = &mut self.replays {
            replays.give_up_all();
        }
        self.forwarding.give_up_all();
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
