//! What becomes of each received datagram: which ones are admitted, which copies are not counted again, and what the
//! engine is asked.

use std::time::Instant;

use tracing::warn;

use super::Server;
use super::replay::{ReplayGuard, ReplayMark, ReplayStatus};
use super::sender::ReplyOutbox;
use super::work::{self, EngineWork};
use crate::handler::NextStep;
use crate::limits::{Admission, RateLimit};
use crate::logging::UsageLog;
use crate::logging::allowance::Allowance;
use pyzor_udp::ReplyTo;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{self, Answer, Refusal};
use pyzor_wire::request::Request;

impl Server {
    /// Decides on every received datagram: answers those that need no engine, and returns the
    /// others.
    pub(super) fn decide(&mut self) -> EngineWork {
        let mut work = self.spare_works.pop().unwrap_or_default();
        work.restart();
        let access = self.access.load();
        let now = (self.clock)();
        if let Some(gate) = &mut self.gate {
            gate.set_time(Instant::now());
        }
        for (datagram, reply_to) in self.inbox.datagrams() {
            let peer = reply_to.peer;
            let admission = self.gate.as_mut().map(|gate| gate.enter(peer.ip()));
            let source = match admission {
                None => None,
                Some(Admission::Admitted(source)) => Some(source),
                Some(refused) => {
                    self.counters.denied += u64::from(refused == Admission::Denied);
                    continue;
                }
            };
            let mut exceeds = |limit| match (&mut self.gate, source) {
                (Some(gate), Some(source)) => gate.exceeds(source, limit),
                _ => false,
            };
            if self.debugging {
                work::log_received(datagram);
            }
            let Some(decision) = self.handler.decide(datagram, peer, now, &access) else {
                self.counters.ignored += 1;
                continue;
            };
            let request = &decision.request;
            if self.debugging {
                work::log_decided(&decision, peer);
            }
            match decision.step {
                NextStep::Refuse(_) if exceeds(RateLimit::Errors) => {}
                NextStep::Refuse(refusal) => {
                    if refusal == Refusal::MalformedVersion {
                        warn_of_version(&mut self.complaints, request);
                    }
                    self.usage.refused(refusal.code(), refusal.diagnosis());
                    self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Err(refusal)));
                }
                NextStep::Answer(op, answer) => {
                    answer_at_once(&mut self.usage, &mut self.outbox, reply_to, request, op, answer);
                }
                NextStep::LookUp(op, digest) => {
                    work.look_up(reply_to, request, op, digest, self.usage.enabled());
                }
                NextStep::Count(..) if request.is_anonymous() && exceeds(RateLimit::Writes) => {}
                NextStep::Count(op, kind, digests) => {
                    let (status, mark) = replay_status(&mut self.replays, request, reply_to);
                    match status {
                        ReplayStatus::New => {
                            work.count(reply_to, request, op, kind, digests, self.usage.enabled());
                            mark.into_iter().for_each(|mark| work.mark(mark));
                        }
                        ReplayStatus::Counted => {
                            let (usage, outbox) = (&mut self.usage, &mut self.outbox);
                            answer_at_once(usage, outbox, reply_to, request, op, Answer::Done);
                        }
                        ReplayStatus::UnderWay => {}
                        ReplayStatus::TooMany => self.counters.shed += 1,
                    }
                }
            }
        }
        work
    }
}

/// Logs a protocol version that is no number, which a stranger can send.
fn warn_of_version(complaints: &mut Allowance, request: &Request<'_>) {
    if complaints.take(Instant::now()).is_some() {
        warn!("Invalid PV: {}", request.version.unwrap_or_default().escape_ascii());
    }
}

/// What is known of a request that is about to be counted, and the mark that it is to be remembered by, if any.
fn replay_status(
    replays: &mut Option<ReplayGuard>,
    request: &Request<'_>,
    reply_to: ReplyTo,
) -> (ReplayStatus, Option<ReplayMark>) {
    let Some(replays) = replays else { return (ReplayStatus::New, None) };
    match ReplayMark::of(request) {
        Some(mark) => (replays.check(mark, reply_to), Some(mark)),
        None => (ReplayStatus::New, None),
    }
}

/// Replies to a request that needs no engine.
fn answer_at_once(
    usage: &mut UsageLog,
    outbox: &mut ReplyOutbox,
    reply_to: ReplyTo,
    request: &Request<'_>,
    op: Op,
    answer: Answer,
) {
    if usage.enabled() {
        usage.executed(request.user, reply_to.peer.ip(), op.name(), request.digests());
    }
    outbox.push(reply_to, |out| reply::encode(out, request.thread, Ok(answer)));
}
