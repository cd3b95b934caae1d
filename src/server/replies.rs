//! Replies and their lines in the usage log.

use std::time::Instant;

use super::Server;
use super::sender::ReplyOutbox;
use super::work::{EngineWork, FinishedRequest};
use crate::logging::UsageLog;
use crate::storage::Batch;
use pyzor_udp::ReplyTo;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{self, Answer, Refusal};
use pyzor_wire::request::Request;

/// The replies to send, and the usage log, which has a line for each.
pub(super) struct Replies {
    pub(super) outbox: ReplyOutbox,
    pub(super) usage: UsageLog,
}

impl Replies {
    /// Refuses a request.
    pub(super) fn refuse(&mut self, reply_to: ReplyTo, thread: &[u8], refusal: Refusal) {
        self.usage.refused(refusal.code(), refusal.diagnosis());
        self.outbox.push(reply_to, |out| reply::encode(out, thread, Err(refusal)));
    }

    /// Answers a request that needs no engine.
    pub(super) fn answer(&mut self, reply_to: ReplyTo, request: &Request<'_>, op: Op, answer: Answer) {
        if self.usage.enabled() {
            self.usage.executed(request.user, reply_to.peer.ip(), op.name(), request.digests());
        }
        self.outbox.push(reply_to, |out| reply::encode(out, request.thread, Ok(answer)));
    }

    /// Replies to a request that the engine has answered, or to a copy of it.
    fn finish(&mut self, reply_to: ReplyTo, done: &FinishedRequest<'_>) {
        match (done.outcome, &done.usage) {
            (Err(refusal), _) => self.usage.refused(refusal.code(), refusal.diagnosis()),
            (Ok(_), Some(usage)) => {
                self.usage.executed(usage.user, reply_to.peer.ip(), done.op.name(), usage.digests());
            }
            (Ok(_), None) => {}
        }
        self.outbox.push(reply_to, |out| reply::encode(out, done.thread, done.outcome));
    }
}

impl Server {
    /// Replies to all requests of a batch that the engine has answered.
    pub(super) fn complete(&mut self, batch: Batch, works: Vec<EngineWork>) {
        let limit = self.engine.count_limit();
        for work in works {
            for done in work.outcomes(&batch, limit) {
                self.replies.finish(done.reply_to, &done);
                if let (Some(replays), Some(mark)) = (&mut self.admission.replays, done.mark) {
                    let accepted = done.outcome.is_ok();
                    for copy in replays.finish(mark, accepted, (self.clock)(), Instant::now()) {
                        self.replies.finish(copy, &done);
                    }
                }
            }
            self.spare_works.push(work);
        }
        self.spare_works.truncate(self.max_in_flight);
        self.spare_batches.push(batch);
        self.spare_batches.truncate(self.max_in_flight);
    }
}
