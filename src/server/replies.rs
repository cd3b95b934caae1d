//! Replies, their lines in the usage log, and their counters.

use std::sync::Arc;
use std::time::Instant;

use super::Server;
use super::finished::FinishedRequest;
use super::sender::ReplyOutbox;
use super::work::EngineWork;
use crate::logging::UsageLog;
use crate::stats::ServerStats;
use crate::storage::Batch;
use pyzor_udp::ReplyTo;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{self, Answer, Refusal};
use pyzor_wire::request::Request;

/// The code of a reply without a refusal.
const OK: u16 = 200;

/// The replies to send, the usage log, which has a line for each, and the counters.
pub(super) struct Replies {
    pub(super) outbox: ReplyOutbox,
    pub(super) usage: UsageLog,
    pub(super) stats: Arc<ServerStats>,
    /// The replies in the outbox whose requests have a known time of receipt.
    unsent: Vec<UnsentReplies>,
    /// The number of these replies.
    known: usize,
}

/// Replies in the outbox to requests that were received at once.
struct UnsentReplies {
    received: Instant,
    replies: usize,
    /// Whether the requests waited for other servers.
    has_waited: bool,
}

impl Replies {
    pub(super) fn new(usage: UsageLog, stats: Arc<ServerStats>) -> Self {
        Self { outbox: ReplyOutbox::default(), usage, stats, unsent: Vec::new(), known: 0 }
    }

    /// Refuses a request.
    pub(super) fn refuse(&mut self, reply_to: ReplyTo, request: &Request<'_>, refusal: Refusal) {
        self.stats.replied(Op::from_name(request.op), refusal.code());
        self.usage.refused(refusal.code(), refusal.diagnosis());
        self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Err(refusal)));
    }

    /// Answers a request that needs no engine.
    pub(super) fn answer(&mut self, reply_to: ReplyTo, request: &Request<'_>, op: Op, answer: Answer) {
        self.stats.replied(Some(op), OK);
        if self.usage.enabled() {
            self.usage.executed(request.user, reply_to.peer.ip(), op.name(), request.digests());
        }
        self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Ok(answer)));
    }

    /// Replies to a request that the engine has answered, or to a copy of it.
    pub(super) fn finish(&mut self, reply_to: ReplyTo, done: &FinishedRequest<'_>) {
        match (done.outcome, &done.usage) {
            (Err(refusal), _) => self.usage.refused(refusal.code(), refusal.diagnosis()),
            (Ok(_), Some(usage)) => {
                self.usage.executed(usage.user, reply_to.peer.ip(), done.op.name(), usage.digests());
            }
            (Ok(_), None) => {}
        }
        self.stats.replied(Some(done.op), done.outcome.map_or_else(Refusal::code, |_| OK));
        if let (Op::Check, Ok(Answer::Counts(counts))) = (done.op, done.outcome) {
            let is_hit = counts.reports != 0 || counts.whitelists != 0;
            if is_hit { &self.stats.check_hits } else { &self.stats.check_misses }.add(1);
        }
        self.outbox.push(reply_to, |out| reply::encode(out, done.thread, done.outcome));
    }

    /// Counts a request by its user.
    pub(super) fn count_user(&self, request: &Request<'_>) {
        if request.is_anonymous() { &self.stats.anonymous } else { &self.stats.accounts }.add(1);
    }

    /// Records when the requests were received whose replies have been added since the last call.
    pub(super) fn received(&mut self, at: Instant) {
        self.add_unsent(at, false);
    }

    /// Records when checks that waited for other servers were received whose replies have been added since the last
    /// call. Their times are kept apart: they tell about other servers, and not about this one and its database.
    pub(super) fn received_and_waited(&mut self, at: Instant) {
        self.add_unsent(at, true);
    }

    fn add_unsent(&mut self, received: Instant, has_waited: bool) {
        let replies = self.outbox.len() - self.known;
        if replies > 0 {
            self.unsent.push(UnsentReplies { received, replies, has_waited });
            self.known += replies;
        }
    }

    /// Records the times from the receipt of requests to their replies, which have just been sent.
    pub(super) fn sent(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        self.known = 0;
        let now = Instant::now();
        for unsent in self.unsent.drain(..) {
            let took = now.saturating_duration_since(unsent.received);
            let durations = if unsent.has_waited { &self.stats.upstream.waited } else { &self.stats.latency };
            durations.add(took.as_micros() as u64, unsent.replies as u64);
        }
    }
}

impl Server {
    /// Replies to all requests of a batch that the engine has answered, and hands over what is forwarded.
    pub(super) fn complete(&mut self, batch: Batch, works: Vec<EngineWork>) {
        let limit = self.engine.count_limit();
        for work in works {
            for mut done in work.outcomes(&batch, limit) {
                if let Some(opinions) = &mut self.opinions
                    && let Some(missed) = done.missed()
                {
                    match opinions.consult(missed, &done, work.waiting_since(), &self.stats) {
                        Some(counts) => done.outcome = Ok(Answer::Counts(counts)),
                        // Replied to when the other servers have answered.
                        None => continue,
                    }
                }
                self.replies.finish(done.reply_to, &done);
                for copy in self.admission.forwarding.finish(&done, &batch) {
                    self.replies.finish(copy.reply_to, &done.for_copy(&copy));
                }
                if let Some(mark) = done.marks.and_then(|marks| marks.replay)
                    && let Some(replays) = &mut self.admission.replays
                {
                    let accepted = done.outcome.is_ok();
                    for copy in replays.finish(mark, accepted, (self.clock)(), Instant::now()) {
                        self.replies.finish(copy, &done);
                    }
                }
            }
            self.replies.received(work.waiting_since());
            self.spare_works.push(work);
        }
        self.admission.forwarding.hand_over();
        if let Some(opinions) = &mut self.opinions {
            opinions.hand_over();
        }
        self.spare_works.truncate(self.max_in_flight);
        self.spare_batches.push(batch);
        self.spare_batches.truncate(self.max_in_flight);
    }
}
