//! Second opinions as the loop sees them: checks that found nothing are answered by other servers, or wait for that.
//!
//! A check that waits holds up nothing: it has left its batch, and is answered when its answer or the lack of one comes.

use std::sync::Arc;
use std::time::Instant;

use tracing::error;

use super::Server;
use super::finished::{FinishedRequest, LookedUpDigest, UsageFields};
use crate::stats::{DeclineCause, ServerStats};
use crate::upstream::{Consultation, Desk, QuestionSink, UpstreamNews, UpstreamParts, UpstreamReceiver};
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{Answer, RecordCounts};

/// The longest text of a check that waits: longer ones get the plain miss, which bounds the memory. Clients send less than
/// a tenth of it.
const MAX_TEXT: usize = 1024;

/// A check that waits for the answer of other servers.
#[derive(Debug)]
struct WaitingCheck {
    reply_to: ReplyTo,
    received: Instant,
    thread: Box<[u8]>,
    usage: Option<KeptUsage>,
}

/// The user and the digests of a check, for the usage log.
#[derive(Debug)]
struct KeptUsage {
    user: Box<[u8]>,
    digests: Box<[u8]>,
}

impl WaitingCheck {
    fn of(done: &FinishedRequest<'_>, received: Instant) -> Self {
        let usage = done
            .usage
            .as_ref()
            .map(|usage| KeptUsage { user: usage.user.into(), digests: usage.joined_digests().into() });
        Self { reply_to: done.reply_to, received, thread: done.thread.into(), usage }
    }

    /// Returns the check with these counts.
    fn finished(&self, counts: RecordCounts) -> FinishedRequest<'_> {
        let usage = self.usage.as_ref().map(|kept| UsageFields::new(&kept.user, &kept.digests));
        let outcome = Ok(Answer::Counts(counts));
        FinishedRequest::without_operation(self.reply_to, Op::Check, &self.thread, outcome, usage)
    }
}

/// Asks other servers about checks that found nothing.
pub(super) struct SecondOpinions {
    sink: Arc<dyn QuestionSink>,
    news: UpstreamReceiver,
    desk: Desk<WaitingCheck>,
    /// Questions to send after this batch.
    questions: Vec<Digest>,
}

impl SecondOpinions {
    pub(super) fn new(UpstreamParts { settings, sink, news }: UpstreamParts) -> Self {
        Self { desk: Desk::new(&settings, Instant::now()), sink, news, questions: Vec::new() }
    }

    /// Decides on a check that found nothing. Returns the counts to answer with; none if it waits.
    pub(super) fn consult(
        &mut self,
        missed: LookedUpDigest,
        done: &FinishedRequest<'_>,
        received: Instant,
        stats: &ServerStats,
    ) -> Option<RecordCounts> {
        let counters = &stats.upstream;
        let decline = |cause: DeclineCause| {
            counters.declined[cause as usize].add(1);
            Some(RecordCounts::default())
        };
        if missed.is_local_only {
            return decline(DeclineCause::LocalOnly);
        }
        if done.text_len() > MAX_TEXT {
            return decline(DeclineCause::Busy);
        }
        let check = || WaitingCheck::of(done, received);
        match self.desk.consult(missed.digest, self.sink.is_available(), Instant::now(), check) {
            Consultation::Known(counts) => {
                let is_hit = counts != RecordCounts::default();
                if is_hit { &counters.cached_hits } else { &counters.cached_misses }.add(1);
                return Some(counts);
            }
            Consultation::Ask => {
                counters.asked.add(1);
                self.questions.push(missed.digest);
            }
            Consultation::Join => counters.joined.add(1),
            Consultation::Declined(cause) => return decline(cause),
        }
        None
    }

    /// Sends the questions of a batch.
    pub(super) fn hand_over(&mut self) {
        if !self.questions.is_empty() {
            self.sink.ask(&mut self.questions);
        }
    }

    /// Records the sizes of the cache and of the queue.
    pub(super) fn sample(&self, stats: &ServerStats) {
        stats.upstream.cached.set(self.desk.cached() as u64);
        stats.upstream.waiting.set(self.desk.waiting() as u64);
    }
}

/// Waits for news of other servers. Never returns without any to ask. `None`: there will be no more.
pub(super) async fn news(opinions: &mut Option<SecondOpinions>) -> Option<UpstreamNews> {
    match opinions {
        Some(opinions) => opinions.news.recv().await,
        None => std::future::pending().await,
    }
}

impl Server {
    /// Replies to the checks that waited for these answers.
    pub(super) fn take_news(&mut self, news: Option<UpstreamNews>) {
        let Some(opinions) = &mut self.opinions else { return };
        let answers = match news {
            Some(UpstreamNews::Answers(answers)) => answers,
            Some(UpstreamNews::ServersChanged) => return opinions.desk.forget(),
            None => {
                error!(
                    "Second opinions end, because their thread has ended: restart pyzord to ask other servers again"
                );
                return self.end_second_opinions();
            }
        };
        let now = Instant::now();
        for answer in answers {
            let counters = &self.stats.upstream;
            let outcome = match answer.counts {
                Some(counts) if counts == RecordCounts::default() => &counters.not_found,
                Some(_) => &counters.found,
                None => &counters.unanswered,
            };
            outcome.add(1);
            for check in opinions.desk.take(answer, now) {
                self.replies.finish(check.reply_to, &check.finished(answer.counts.unwrap_or_default()));
                self.replies.received_and_waited(check.received);
            }
        }
        self.send();
    }

    /// Answers all checks that wait, as if no other server were asked, and asks none any more.
    pub(super) fn end_second_opinions(&mut self) {
        let Some(mut opinions) = self.opinions.take() else { return };
        for check in opinions.desk.give_up() {
            self.replies.finish(check.reply_to, &check.finished(RecordCounts::default()));
            self.replies.received_and_waited(check.received);
        }
        opinions.sample(&self.stats);
        self.send();
    }
}
