//! What becomes of each request of a batch: before the engine is asked, and after it has answered.

use std::time::Instant;

use tracing::warn;

use super::Server;
use super::replay::{Mark, Seen};
use super::work::{self, Work};
use crate::handler::Step;
use crate::limits::{Admission, RateLimit};
use crate::storage::Batch;
use pyzor_wire::reply::{self, Answer, Refusal};

impl Server {
    /// Decides on every received datagram: answers those that need no engine, and returns the
    /// others.
    pub(super) fn decide(&mut self) -> Work {
        let mut work = self.spare_works.pop().unwrap_or_default();
        work.restart();
        let access = self.access.load();
        let now = (self.clock)();
        if let Some(gate) = &mut self.gate {
            gate.set_time(Instant::now());
        }
        for (datagram, reply_to) in self.inbox.datagrams() {
            let peer = reply_to.peer;
            let mut limits = None;
            if let Some(gate) = &mut self.gate {
                match gate.enter(peer.ip()) {
                    Admission::Admitted(source) => limits = Some((gate, source)),
                    Admission::Exceeds => continue,
                    Admission::Denied => {
                        self.counters.denied += 1;
                        continue;
                    }
                }
            }
            let mut exceeds =
                |limit| limits.as_mut().is_some_and(|(gate, source)| gate.exceeds(*source, limit));
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
                Step::Refuse(_) if exceeds(RateLimit::Errors) => {}
                Step::Refuse(refusal) => {
                    if refusal == Refusal::MalformedVersion && self.complaints.take(Instant::now()).is_some()
                    {
                        warn!("Invalid PV: {}", request.version.unwrap_or_default().escape_ascii());
                    }
                    self.usage.refused(refusal.code(), refusal.diagnosis());
                    self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Err(refusal)));
                }
                Step::Answer(op, answer) => {
                    if self.usage.enabled() {
                        self.usage.executed(request.user, peer.ip(), op.name(), request.digests());
                    }
                    self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Ok(answer)));
                }
                Step::LookUp(op, digest) => work.look_up(reply_to, request, op, digest, self.usage.enabled()),
                Step::Count(..) if request.is_anonymous() && exceeds(RateLimit::Writes) => {}
                Step::Count(op, kind, digests) => {
                    let mark = if self.replays.is_some() { Mark::of(request) } else { None };
                    let seen = match (&mut self.replays, mark) {
                        (Some(replays), Some(mark)) => replays.see(mark, reply_to),
                        _ => Seen::New,
                    };
                    match seen {
                        Seen::New => {
                            work.count(reply_to, request, op, kind, digests, self.usage.enabled());
                            if let Some(mark) = mark {
                                work.mark(mark);
                            }
                        }
                        Seen::Counted => {
                            if self.usage.enabled() {
                                self.usage.executed(request.user, peer.ip(), op.name(), request.digests());
                            }
                            self.outbox
                                .push(reply_to, |out| reply::encode(out, request.thread, Ok(Answer::Done)));
                        }
                        Seen::UnderWay => {}
                        Seen::TooMany => self.counters.shed += 1,
                    }
                }
            }
        }
        work
    }

    /// Replies to all requests of a batch.
    pub(super) fn complete(&mut self, batch: Batch, works: Vec<Work>) {
        let limit = self.engine.count_limit();
        for work in works {
            for done in work.outcomes(&batch, limit) {
                let copies = match (&mut self.replays, done.mark) {
                    (Some(replays), Some(mark)) => {
                        replays.settle(mark, done.outcome.is_ok(), (self.clock)(), Instant::now())
                    }
                    _ => Vec::new(),
                };
                for reply_to in std::iter::once(done.reply_to).chain(copies) {
                    match (done.outcome, &done.usage) {
                        (Err(refusal), _) => self.usage.refused(refusal.code(), refusal.diagnosis()),
                        (Ok(_), Some(usage)) => {
                            self.usage.executed(
                                usage.user,
                                reply_to.peer.ip(),
                                done.op.name(),
                                usage.digests(),
                            );
                        }
                        (Ok(_), None) => {}
                    }
                    self.outbox.push(reply_to, |out| reply::encode(out, done.thread, done.outcome));
                }
            }
            self.spare_works.push(work);
        }
        self.spare_works.truncate(self.max_under_way);
        self.spare_batches.push(batch);
        self.spare_batches.truncate(self.max_under_way);
    }
}
