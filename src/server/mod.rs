//! The loop that owns the socket: receives batches, has them decided and stored, and replies.
//!
//! Everything runs on one thread. There is no task per datagram: one batch of received datagrams
//! is one [`EngineWork`], and what a batch wants of the engine is one [`Batch`]. An engine that answers
//! on the spot is answered for at once; for one that takes its time, a bounded number of batches
//! is under way while further work waits in a bounded queue.

mod admission;
mod counters;
mod dispatch;
mod drain;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod inbox;
mod replay;
mod replies;
mod sender;
pub(crate) mod socket;
mod work;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, error};

use self::admission::AdmissionControl;
pub(crate) use self::counters::UnansweredCounters;
use self::inbox::RequestInbox;
use self::replay::ReplayGuard;
use self::replies::Replies;
use self::sender::{ReplyOutbox, ReplySender};
use self::socket::Listener;
use self::work::EngineWork;
use crate::access::Authorizer;
use crate::handler::Handler;
use crate::limits::Gate;
use crate::logging::UsageLog;
use crate::logging::allowance::Allowance;
use crate::record::Timestamp;
use crate::storage::{Batch, Engine};
use pyzor_udp::DATAGRAMS_PER_CALL;

/// How many batches are received before everything else gets its turn.
const BATCHES_PER_TURN: usize = 8;
/// How long nothing is received after an error, which is most likely lack of memory.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the log says what was not answered.
const COUNTERS_PERIOD: Duration = Duration::from_secs(60);

/// What a turn of receiving has come to.
enum Reception {
    /// The socket was empty.
    Complete,
    /// The socket may hold more.
    Unfinished,
    /// The system has refused to receive.
    Failed,
}

/// What a server works with.
pub(crate) struct ServerParts {
    /// The bound sockets.
    pub(crate) listener: Listener,
    /// Accounts and rights; may be swapped at any moment.
    pub(crate) access: Arc<ArcSwap<Authorizer>>,
    /// The database.
    pub(crate) engine: Arc<dyn Engine>,
    /// Where a line a request is written.
    pub(crate) usage: UsageLog,
    /// Which networks are accepted, and how often; none: all, always.
    pub(crate) gate: Option<Gate>,
    /// How many signatures to remember at least, so that no copy is counted again; none: do not look.
    pub(crate) replay_guard: Option<usize>,
    /// The clock that requests are judged and counted by.
    pub(crate) clock: fn() -> Timestamp,
}

/// The loop and all that it works with.
pub(crate) struct Server {
    socket: tokio::net::UdpSocket,
    access: Arc<ArcSwap<Authorizer>>,
    engine: Arc<dyn Engine>,
    clock: fn() -> Timestamp,
    debugging: bool,
    handler: Handler,
    inbox: RequestInbox,
    admission: AdmissionControl,
    replies: Replies,
    sender: ReplySender,
    waiting: VecDeque<EngineWork>,
    under_way: JoinSet<(Batch, Vec<EngineWork>)>,
    max_under_way: usize,
    /// When the engine last answered anything that it had been given time for.
    answered: Instant,
    /// When the last batch was given to the engine, and when the next one may be.
    begun: Instant,
    next: Option<Instant>,
    spare_works: Vec<EngineWork>,
    spare_batches: Vec<Batch>,
    counters: UnansweredCounters,
    reported: UnansweredCounters,
    kernel_drops: u32,
    complaints: Allowance,
}

impl Server {
    /// A server that has not begun.
    ///
    /// # Errors
    ///
    /// The socket cannot be registered with the runtime.
    pub(crate) fn new(parts: ServerParts) -> io::Result<Self> {
        let ServerParts { listener, access, engine, usage, gate, replay_guard, clock } = parts;
        let (sender, socket) = ReplySender::new(listener);
        let max_under_way = engine.batches_at_a_time().max(1);
        Ok(Self {
            socket: tokio::net::UdpSocket::from_std(socket)?,
            access,
            engine,
            clock,
            debugging: tracing::enabled!(tracing::Level::DEBUG),
            handler: Handler::default(),
            inbox: RequestInbox::default(),
            admission: AdmissionControl { gate, replays: replay_guard.map(ReplayGuard::new) },
            replies: Replies { outbox: ReplyOutbox::default(), usage },
            sender,
            waiting: VecDeque::new(),
            under_way: JoinSet::new(),
            max_under_way,
            answered: Instant::now(),
            begun: Instant::now(),
            next: None,
            spare_works: Vec::new(),
            spare_batches: Vec::new(),
            counters: UnansweredCounters::default(),
            reported: UnansweredCounters::default(),
            kernel_drops: 0,
            complaints: Allowance::per_minute(10),
        })
    }

    /// Serves until `stop` is ready, then finishes what has been received, within a bound.
    ///
    /// No branch of the loop waits. What requests can bring about comes last, so that they cannot keep the rest
    /// from its turn.
    pub(crate) async fn serve(&mut self, stop: impl Future<Output = ()>) -> UnansweredCounters {
        tokio::pin!(stop);
        let mut minute = interval_at(tokio::time::Instant::now() + COUNTERS_PERIOD, COUNTERS_PERIOD);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut paused_until = None;
        loop {
            let next = self.next;
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = minute.tick() => self.report_counters(),
                Some(done) = self.under_way.join_next() => self.take_back(done),
                () = sleep_until(paused_until.unwrap_or_else(Instant::now).into()), if paused_until.is_some() => {
                    paused_until = None;
                }
                () = sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {
                    self.dispatch();
                    self.send();
                }
                ready = self.socket.readable(), if paused_until.is_none() => match ready {
                    Ok(()) => match self.receive(BATCHES_PER_TURN) {
                        Reception::Complete => {}
                        Reception::Unfinished => yield_now().await,
                        Reception::Failed => paused_until = Some(Instant::now() + PAUSE),
                    },
                    Err(error) => {
                        error!("the socket cannot be waited for: {error}");
                        break;
                    }
                },
            }
        }
        self.drain().await;
        self.report_counters();
        self.counters
    }

    /// Receives and handles up to this many batches.
    fn receive(&mut self, batches: usize) -> Reception {
        for _ in 0..batches {
            let received = self
                .socket
                .try_io(Interest::READABLE, || self.inbox.receive(&self.socket).map_err(io::Error::from));
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Reception::Complete,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if self.complaints.take(Instant::now()).is_some() {
                        error!("receiving failed: {error}");
                    }
                    return Reception::Failed;
                }
            }
            let drops = self.inbox.kernel_drops();
            self.counters.dropped_by_kernel += u64::from(drops.wrapping_sub(self.kernel_drops));
            self.kernel_drops = drops;
            let mut work = self.decide();
            if work.is_empty() {
                self.spare_works.push(work);
            } else {
                work.wait_from(Instant::now());
                self.waiting.push_back(work);
                // Only an engine that takes its time makes anything wait, not this process when it
                // has to: what has just been received is not old.
                if !self.under_way.is_empty() {
                    self.shed();
                }
                self.dispatch();
            }
            let was_all = self.inbox.len() < DATAGRAMS_PER_CALL;
            self.send();
            if was_all {
                // There was no more, and what has come since wakes the loop: that need not be asked.
                let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = self.socket.try_io(Interest::READABLE, nothing);
                return Reception::Complete;
            }
        }
        Reception::Unfinished
    }

    /// Sends the replies that have been decided on. Those that the system does not take at once are dropped.
    fn send(&mut self) {
        if self.debugging {
            for (reply, peer) in self.replies.outbox.replies() {
                debug!("Sending: '{}' to {peer}", reply.escape_ascii());
            }
        }
        let counters = &mut self.counters;
        self.sender.flush(&self.socket, &mut self.replies.outbox, |peer, replies, error| {
            match error {
                Errno::EAGAIN => counters.without_room += replies as u64,
                _ => counters.unsent += replies as u64,
            }
            // Debug only: a stranger can cause this with a forged address.
            debug!("{replies} replies to {peer} were not sent: {error}");
        });
        self.replies.usage.hand_over();
    }

    /// Says what was not answered since the last time, if anything.
    fn report_counters(&mut self) {
        if let Some(replays) = &mut self.admission.replays {
            replays.report();
        }
        if let Some(gate) = &self.admission.gate {
            self.counters.exceeding = gate.exceeded();
        }
        let only_reports = self.admission.gate.as_ref().is_some_and(Gate::only_reports);
        self.counters.report_since(&self.reported, only_reports);
        self.reported = self.counters;
    }
}

#[cfg(test)]
mod tests;
