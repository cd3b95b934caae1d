mod forwarding;
mod second_opinion;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::dispatch::{MAX_BATCH, MAX_WAIT};
use super::*;
use crate::record::{Record, TallyKind};
use crate::storage::{BatchProgress, BoxFuture, EngineStatus};
use pyzor_wire::digest::Digest;

const REPLY_WAIT: Duration = Duration::from_secs(10);
/// The most batches in flight: the default of [`Engine::batches_at_a_time`].
const MAX_IN_FLIGHT: usize = 4;

/// An engine in memory that completes a batch only with a permit.
#[derive(Clone)]
struct Slow {
    records: Arc<Mutex<HashMap<Digest, Record>>>,
    /// One permit per batch.
    gate: Arc<Semaphore>,
    /// The number of different digests in each batch.
    batches: Arc<Mutex<Vec<usize>>>,
    arrived: Arc<Notify>,
    spacing: Arc<Mutex<Duration>>,
    /// The digests that the engine does not count.
    damaged: Arc<Mutex<HashSet<Digest>>>,
    /// Counts these digests, and does not say so.
    in_doubt: Arc<Mutex<HashSet<Digest>>>,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            records: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            batches: Arc::default(),
            arrived: Arc::default(),
            spacing: Arc::default(),
            damaged: Arc::default(),
            in_doubt: Arc::default(),
        }
    }
}

impl Engine for Slow {
    fn describe(&self) -> String {
        "slow".to_owned()
    }

    fn run(&self, mut batch: Batch) -> BatchProgress {
        let this = self.clone();
        this.batches.lock().unwrap().push(batch.entries().len());
        this.arrived.notify_one();
        BatchProgress::Later(Box::pin(async move {
            this.gate.acquire().await.unwrap().forget();
            let now = batch.now();
            let mut records = this.records.lock().unwrap();
            for entry in batch.entries_mut() {
                if this.damaged.lock().unwrap().contains(&entry.digest) {
                    entry.fail(crate::storage::StorageError::Damaged);
                    continue;
                }
                let record = records.entry(entry.digest).or_default();
                entry.found = Ok(*record);
                for (kind, amount) in
                    [(TallyKind::Report, entry.reports), (TallyKind::Whitelist, entry.whitelists)]
                {
                    if amount > 0 {
                        record.tally_mut(kind).add(amount, now, i64::MAX);
                    }
                }
                (entry.reported, entry.whitelisted) = (Ok(()), Ok(()));
                if this.in_doubt.lock().unwrap().contains(&entry.digest) {
                    entry.fail(crate::storage::StorageError::InDoubt);
                }
            }
            drop(records);
            batch
        }))
    }

    fn spacing(&self) -> Duration {
        *self.spacing.lock().unwrap()
    }

    fn count_limit(&self) -> i64 {
        i64::MAX
    }

    fn is_available(&self) -> bool {
        true
    }

    fn status(&self) -> EngineStatus {
        EngineStatus::default()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Runs a test on one thread, as the server runs.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// A server that is not serving yet, a client for it, and its engine.
async fn prepared() -> (Server, tokio::net::UdpSocket, Slow) {
    prepared_with(|_| ()).await
}

/// A server with changed parts that is not serving yet, a client for it, and its engine.
async fn prepared_with(change: impl FnOnce(&mut ServerParts)) -> (Server, tokio::net::UdpSocket, Slow) {
    let listener = socket::bind("127.0.0.1", 0, 1 << 20, false).unwrap();
    let address = listener.address();
    let engine = Slow::default();
    let nowhere = std::path::PathBuf::from("/nonexistent");
    let sources = crate::access::AccessSources {
        passwd: nowhere.clone(),
        access: nowhere,
        order: crate::access::AccessOrder::First,
        order_chosen: true,
        forward_from: Vec::new(),
    };
    let access = crate::access::load(&sources, crate::access::PresentFiles::default()).unwrap().authorizer;
    let mut parts = ServerParts {
        listener,
        access: Arc::new(ArcSwap::from_pointee(access)),
        engine: Arc::new(engine.clone()),
        usage: UsageLog::none(),
        gate: None,
        replay_guard: None,
        clock: || Timestamp::from_seconds(1_700_000_000),
        stats: Arc::default(),
        pulse: None,
        origin: None,
        forward: None,
        forward_from: ForwardFrom::default(),
        upstream: None,
    };
    change(&mut parts);
    let server = Server::new(parts).unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    (server, client, engine)
}

/// A server running on the test's runtime, and a client for it.
struct Running {
    client: tokio::net::UdpSocket,
    engine: Slow,
    stop: Option<oneshot::Sender<()>>,
    stats: Arc<ServerStats>,
    server: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        Self::serve(prepared().await)
    }

    fn serve((mut server, client, engine): (Server, tokio::net::UdpSocket, Slow)) -> Self {
        let stats = Arc::clone(&server.stats);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::task::spawn_local(async move {
            server
                .serve(async {
                    let _ = stopped.await;
                })
                .await;
        });
        Self { client, engine, stop: Some(stop), stats, server }
    }

    async fn send(&self, op: &str, digest: u8, thread: u32) {
        let digest = format!("{digest:02x}").repeat(20);
        let text = format!("Op: {op}\nOp-Digest: {digest}\nThread: {thread}\nPV: 2.1\n\n");
        self.client.send(text.as_bytes()).await.unwrap();
    }

    /// Receives the next reply and returns its thread and its count, if any.
    async fn reply(&self) -> (u32, Option<i64>) {
        let mut buffer = [0; 1000];
        let length =
            timeout(REPLY_WAIT, self.client.recv(&mut buffer)).await.expect("no reply came").unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        (value("Thread: ").unwrap().parse().unwrap(), value("Count: ").map(|count| count.parse().unwrap()))
    }

    async fn batches(&self, number: usize) -> Vec<usize> {
        loop {
            let batches = self.engine.batches.lock().unwrap().clone();
            if batches.len() >= number {
                return batches;
            }
            timeout(REPLY_WAIT, self.engine.arrived.notified()).await.expect("no batch came");
        }
    }
}

#[test]
fn requests_without_engine_work_are_answered_while_the_engine_hangs() {
    local(async {
        let running = Running::start().await;
        running.send("check", 1, 1).await;
        running.batches(1).await;
        running.send("ping", 1, 2).await;
        assert_eq!(running.reply().await, (2, None));
        running.send("train", 1, 3).await;
        assert_eq!(running.reply().await, (3, None));
        running.engine.gate.add_permits(1);
        assert_eq!(running.reply().await, (1, Some(0)));
    });
}

#[test]
fn engine_spacing_delays_the_next_batch() {
    local(async {
        let running = Running::start().await;
        *running.engine.spacing.lock().unwrap() = REPLY_WAIT * 2;
        running.send("check", 1, 1).await;
        running.batches(1).await;
        for thread in 2..5 {
            running.send("check", thread as u8, thread).await;
        }
        running.send("ping", 1, 9).await;
        assert_eq!(running.reply().await, (9, None));
        // The engine would accept three more batches, but the spacing delays them.
        assert_eq!(running.batches(1).await, [1]);
        // Without a batch in flight, or after the spacing, the next batch starts at once.
        running.engine.gate.add_permits(1);
        assert_eq!(running.reply().await.0, 1);
        assert_eq!(running.batches(2).await, [1, 3]);
        *running.engine.spacing.lock().unwrap() = Duration::from_millis(1);
        running.send("check", 7, 7).await;
        assert_eq!(running.batches(3).await, [1, 3, 1]);
        running.engine.gate.add_permits(2);
        for _ in 0..4 {
            running.reply().await;
        }
    });
}

#[test]
fn requests_that_wait_for_a_busy_engine_become_one_batch() {
    local(async {
        let running = Running::start().await;
        for number in 0..MAX_IN_FLIGHT {
            running.send("report", number as u8, number as u32).await;
            running.batches(number + 1).await;
        }
        for number in 100..120_u32 {
            running.send("report", 200 + (number % 10) as u8, number).await;
            running.send("ping", 1, 1000 + number).await;
            // The reply to the ping shows that the report before it has been received.
            assert_eq!(running.reply().await.0, 1000 + number);
        }
        running.engine.gate.add_permits(MAX_IN_FLIGHT);
        let mut threads = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            threads.push(running.reply().await.0);
        }
        threads.sort_unstable();
        assert_eq!(threads, (0..MAX_IN_FLIGHT as u32).collect::<Vec<_>>());
        let batches = running.batches(MAX_IN_FLIGHT + 1).await;
        assert_eq!(batches[MAX_IN_FLIGHT..], [10], "twenty reports of ten digests");
        running.engine.gate.add_permits(1);
        for number in 100..120 {
            assert_eq!(running.reply().await.0, number);
        }
        let counted: i64 =
            running.engine.records.lock().unwrap().values().map(|record| record.reports.count).sum();
        assert_eq!(counted, MAX_IN_FLIGHT as i64 + 20);
    });
}

#[test]
fn requests_that_waited_too_long_are_shed_and_counted() {
    const TOO_MANY: usize = 100;
    local(async {
        let mut running = Running::start().await;
        for number in 0..MAX_IN_FLIGHT {
            running.send("check", number as u8, number as u32).await;
            running.batches(number + 1).await;
        }
        for number in 0..MAX_BATCH + TOO_MANY {
            running.send("report", 200, 10_000 + number as u32).await;
            if number % 100 == 99 || number + 1 == MAX_BATCH + TOO_MANY {
                // The reply to the ping shows that all requests before it have been received.
                running.send("ping", 1, 1000).await;
                assert_eq!(running.reply().await.0, 1000);
            }
        }
        sleep(MAX_WAIT * 2).await;
        running.engine.gate.add_permits(2);
        for _ in 0..2 {
            assert!(running.reply().await.0 < 100);
        }
        running.engine.gate.add_permits(100);
        // One batch. Some of its many replies may be lost.
        running.batches(MAX_IN_FLIGHT + 1).await;
        running.send("check", 200, 102).await;
        let count = loop {
            if let (102, count) = running.reply().await {
                break count.unwrap();
            }
        };
        running.stop.take().unwrap().send(()).unwrap();
        running.server.await.unwrap();
        let shed = running.stats.report().drops["shed"];
        assert!(shed >= TOO_MANY as u64, "{shed}");
        assert_eq!(count as u64 + shed, (MAX_BATCH + TOO_MANY) as u64, "the shed reports were not counted");
    });
}

#[test]
fn nothing_is_shed_while_the_engine_does_not_answer() {
    local(async {
        let mut running = Running::start().await;
        for number in 0..MAX_IN_FLIGHT {
            running.send("check", number as u8, number as u32).await;
            running.batches(number + 1).await;
        }
        running.send("report", 200, 100).await;
        running.send("ping", 1, 101).await;
        assert_eq!(running.reply().await.0, 101);
        sleep(MAX_WAIT * 2).await;
        running.engine.gate.add_permits(100);
        let mut threads = Vec::new();
        for _ in 0..=MAX_IN_FLIGHT {
            threads.push(running.reply().await.0);
        }
        assert!(threads.contains(&100), "{threads:?}");
        running.stop.take().unwrap().send(()).unwrap();
        running.server.await.unwrap();
        assert_eq!(running.stats.report().dropped(), 0);
    });
}

#[test]
fn shutdown_answers_requests_in_flight() {
    local(async {
        let mut running = Running::start().await;
        running.send("report", 1, 1).await;
        running.batches(1).await;
        running.stop.take().unwrap().send(()).unwrap();
        running.engine.gate.add_permits(1);
        assert_eq!(running.reply().await.0, 1);
        running.server.await.unwrap();
        assert_eq!(running.stats.report().dropped(), 0);
    });
}

#[test]
fn shutdown_answers_requests_in_the_socket() {
    local(async {
        let (mut server, client, _engine) = prepared().await;
        for number in 0..200 {
            let request = format!("Op: ping\nThread: {number}\nPV: 2.1\n\n");
            client.send(request.as_bytes()).await.unwrap();
        }
        server.serve(std::future::ready(())).await;
        assert_eq!(server.stats.report().dropped(), 0);
        let mut buffer = [0; 1000];
        for _ in 0..200 {
            timeout(REPLY_WAIT, client.recv(&mut buffer)).await.expect("a ping was not answered").unwrap();
        }
    });
}

#[test]
fn replies_and_empty_datagrams_are_ignored() {
    local(async {
        let mut running = Running::start().await;
        running.client.send(b"Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\n\n").await.unwrap();
        running.client.send(b"").await.unwrap();
        running.send("ping", 1, 2).await;
        assert_eq!(running.reply().await.0, 2);
        running.stop.take().unwrap().send(()).unwrap();
        running.server.await.unwrap();
        let report = running.stats.report();
        assert_eq!((report.dropped(), report.drops["reply"], report.drops["empty"]), (2, 1, 1));
    });
}
