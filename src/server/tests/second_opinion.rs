use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::remotes::DirectorySource;
use crate::stats::DeclineCause;
use crate::upstream::{QuestionSink, UpstreamAnswer, UpstreamNews, UpstreamParts, UpstreamSettings};
use pyzor_wire::reply::RecordCounts;

/// Remembers the questions, which the test answers.
struct RecordingSink {
    asked: Mutex<Vec<Digest>>,
    arrived: Notify,
    is_available: AtomicBool,
}

impl QuestionSink for RecordingSink {
    fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    fn ask(&self, digests: &mut Vec<Digest>) {
        assert!(!digests.is_empty());
        self.asked.lock().unwrap().append(digests);
        self.arrived.notify_one();
    }
}

/// A server that asks a [`RecordingSink`], with an engine that completes every batch.
struct Asking {
    running: Running,
    sink: Arc<RecordingSink>,
    news: mpsc::UnboundedSender<UpstreamNews>,
}

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 20])
}

impl Asking {
    async fn start() -> Self {
        let (news, received) = mpsc::unbounded_channel();
        let sink = Arc::new(RecordingSink {
            asked: Mutex::default(),
            arrived: Notify::new(),
            is_available: AtomicBool::new(true),
        });
        let settings = UpstreamSettings {
            source: DirectorySource::default(),
            timeout: Duration::from_secs(1),
            cache: 100,
            found_age: Duration::from_secs(3600),
            miss_age: Duration::from_secs(3600),
            rate: 1_000_000,
        };
        let shared = Arc::clone(&sink);
        let prepared = prepared_with(|parts| {
            parts.upstream = Some(UpstreamParts { settings, sink: shared, news: received });
        });
        let running = Running::serve(prepared.await);
        running.engine.gate.add_permits(1000);
        Self { running, sink, news }
    }

    /// Waits until questions for these digests, and no others, have been sent since the last call.
    async fn asked(&self, digests: &[u8]) {
        let expected: Vec<Digest> = digests.iter().copied().map(digest).collect();
        while self.sink.asked.lock().unwrap().len() < expected.len() {
            timeout(REPLY_WAIT, self.sink.arrived.notified()).await.expect("no question came");
        }
        assert_eq!(std::mem::take(&mut *self.sink.asked.lock().unwrap()), expected);
    }

    fn answer(&self, number: u8, counts: Option<(i64, i64)>) {
        let counts = counts.map(|(reports, whitelists)| RecordCounts { reports, whitelists });
        let answer = UpstreamAnswer { digest: digest(number), counts, is_complete: true };
        self.news.send(UpstreamNews::Answers(vec![answer])).unwrap();
    }

    /// Sends a request and returns its count.
    async fn request(&self, op: &str, digest: u8) -> Option<i64> {
        self.running.send(op, digest, 7777).await;
        let (thread, count) = self.running.reply().await;
        assert_eq!(thread, 7777);
        count
    }

    /// Waits until all requests that were sent before have been handled.
    async fn settle(&self) {
        self.request("ping", 1).await;
        // Answered in the order of the batches, whose outcomes here never wait.
        assert_eq!(self.request("info", 99).await, Some(0));
    }
}

#[test]
fn check_that_finds_nothing_waits_and_others_do_not() {
    local(async {
        let asking = Asking::start().await;
        assert_eq!(asking.request("report", 2).await, None);
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
        assert_eq!(asking.request("check", 2).await, Some(1));
        assert_eq!(asking.request("info", 1).await, Some(0));
        asking.running.send("check", 1, 2).await;
        asking.settle().await;
        asking.answer(1, Some((5, 0)));
        assert_eq!(asking.running.reply().await, (1, Some(5)));
        assert_eq!(asking.running.reply().await, (2, Some(5)));
        asking.asked(&[]).await;
        let upstream = asking.running.stats.upstream.report();
        assert_eq!((upstream.asked, upstream.joined, upstream.found), (1, 1, 1));
        assert_eq!(asking.running.stats.check_hits.get(), 3);
        let latency = asking.running.stats.latency.report();
        assert_eq!((upstream.waited_micros.count, latency.count), (2, 5), "{upstream:?}");
    });
}

#[test]
fn answers_are_cached_until_the_servers_change_and_never_stored() {
    local(async {
        let asking = Asking::start().await;
        for (number, counts) in [(1, (5, 2)), (2, (0, 0))] {
            asking.running.send("check", number, 1).await;
            asking.asked(&[number]).await;
            asking.answer(number, Some(counts));
            assert_eq!(asking.running.reply().await, (1, Some(counts.0)));
            assert_eq!(asking.request("check", number).await, Some(counts.0));
        }
        let records = asking.running.engine.records.lock().unwrap().clone();
        assert!(records.values().all(|record| *record == Record::default()));
        let upstream = asking.running.stats.upstream.report();
        assert_eq!((upstream.cached_hits, upstream.cached_misses, upstream.not_found), (1, 1, 1));
        asking.news.send(UpstreamNews::ServersChanged).unwrap();
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
    });
}

#[test]
fn local_count_ends_the_use_of_a_cached_answer() {
    local(async {
        let asking = Asking::start().await;
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
        asking.answer(1, Some((5, 2)));
        asking.running.reply().await;
        assert_eq!(asking.request("report", 1).await, None);
        assert_eq!(asking.request("check", 1).await, Some(1));
    });
}

#[test]
fn check_without_an_answer_gets_the_plain_miss() {
    local(async {
        let asking = Asking::start().await;
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
        asking.answer(1, None);
        assert_eq!(asking.running.reply().await, (1, Some(0)));
        asking.sink.is_available.store(false, Ordering::Relaxed);
        assert_eq!(asking.request("check", 1).await, Some(0));
        let upstream = asking.running.stats.upstream.report();
        let declined = upstream.declined[DeclineCause::Unavailable.name()];
        assert_eq!((upstream.asked, upstream.unanswered, declined), (1, 1, 1));
    });
}

#[test]
fn check_of_a_server_that_asks_itself_and_one_with_a_huge_thread_are_answered_at_once() {
    local(async {
        let asking = Asking::start().await;
        let check = |more: &str| format!("Op: check\nOp-Digest: {}\n{more}PV: 2.1\n\n", digest(1));
        asking.running.client.send(check("Local-Only: yes\nThread: 1\n").as_bytes()).await.unwrap();
        assert_eq!(asking.running.reply().await, (1, Some(0)));
        let thread = format!("{}2", "0".repeat(1024));
        asking.running.client.send(check(&format!("Thread: {thread}\n")).as_bytes()).await.unwrap();
        let mut buffer = [0; 2000];
        let length = timeout(REPLY_WAIT, asking.running.client.recv(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..length].ends_with(b"Count: 0\nWL-Count: 0\n\n"));
        let declined = asking.running.stats.upstream.report().declined;
        assert_eq!((declined["local_only"], declined["busy"]), (1, 1));
        asking.asked(&[]).await;
    });
}

#[test]
fn waiting_checks_get_the_plain_miss_at_a_stop_and_when_no_answers_can_come() {
    local(async {
        let mut asking = Asking::start().await;
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
        let _ = asking.running.stop.take().unwrap().send(());
        assert_eq!(asking.running.reply().await, (1, Some(0)));
        timeout(REPLY_WAIT, asking.running.server).await.expect("the server does not stop").unwrap();

        let asking = Asking::start().await;
        asking.running.send("check", 1, 1).await;
        asking.asked(&[1]).await;
        drop(asking.news);
        assert_eq!(asking.running.reply().await, (1, Some(0)));
        asking.running.send("check", 2, 2).await;
        assert_eq!(asking.running.reply().await, (2, Some(0)));
    });
}
