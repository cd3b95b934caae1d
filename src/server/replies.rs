//! Replies to the requests of a batch, after the engine has answered.

use std::time::Instant;

use super::Server;
use super::work::EngineWork;
use crate::storage::Batch;
use pyzor_wire::reply;

impl Server {
    /// Replies to all requests of a batch.
    pub(super) fn complete(&mut self, batch: Batch, works: Vec<EngineWork>) {
        let limit = self.engine.count_limit();
        for work in works {
            for done in work.outcomes(&batch, limit) {
                let copies = match (&mut self.replays, done.mark) {
                    (Some(replays), Some(mark)) => {
                        replays.finish(mark, done.outcome.is_ok(), (self.clock)(), Instant::now())
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
