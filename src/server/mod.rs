//! The server loop: receives batches of requests, handles them, and sends the replies.
//!
//! Everything runs on one thread. There is no task per datagram: the requests of one received batch that need the
//! engine are one [`EngineWork`], and one or more of these become one [`Batch`] for the engine. Replies of a
//! synchronous engine are sent at once. For an asynchronous engine, a bounded number of batches is in flight while
//! further work waits in a bounded queue.

mod admission;
mod dispatch;
mod drain;
mod finished;
mod forward_ids;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod inbox;
mod replay;
mod replies;
mod second_opinion;
mod sender;
pub(crate) mod socket;
mod unanswered;
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

use self::admission::{AdmissionControl, RequestMarks};
use self::forwarding::Forwarding;
pub(crate) use self::forwarding::OwnOrigin;
use self::inbox::RequestInbox;
use self::replay::ReplayGuard;
use self::replies::Replies;
use self::second_opinion::SecondOpinions;
use self::sender::ReplySender;
use self::socket::Listener;
use self::unanswered::UnansweredLog;
use self::work::EngineWork;
use crate::access::Authorizer;
use crate::forward::{ForwardFrom, ForwardSink};
use crate::handler::Handler;
use crate::limits::Gate;
use crate::logging::UsageLog;
use crate::logging::allowance::Allowance;
use crate::os::notify::Pulse;
use crate::record::Timestamp;
use crate::stats::{DropCause, ServerStats};
use crate::storage::{Batch, Engine};
use crate::upstream::UpstreamParts;
use pyzor_udp::DATAGRAMS_PER_CALL;

/// The number of batches received before the other branches of the loop get their turn.
const BATCHES_PER_TURN: usize = 8;
/// The pause after a failure to receive, most likely for lack of memory.
const PAUSE: Duration = Duration::from_millis(10);
/// The time between two log lines on unanswered requests.
const UNANSWERED_PERIOD: Duration = Duration::from_secs(60);
/// The time between two samples of the counters.
const SAMPLE_PERIOD: Duration = Duration::from_secs(1);

/// An asynchronous batch that the engine has completed: the batch, its requests, and its start.
type FinishedBatch = (Batch, Vec<EngineWork>, Instant);

/// The result of one turn of receiving.
enum Reception {
    /// The socket was empty.
    Complete,
    /// The socket may hold more.
    Unfinished,
    /// The system call failed.
    Failed,
}

/// The parts a server is made of.
pub(crate) struct ServerParts {
    /// The bound sockets.
    pub(crate) listener: Listener,
    /// Accounts and rights. A reload swaps them at any moment.
    pub(crate) access: Arc<ArcSwap<Authorizer>>,
    /// The database.
    pub(crate) engine: Arc<dyn Engine>,
    /// The log with one line per request.
    pub(crate) usage: UsageLog,
    /// The accepted networks and the rate limits; none: everything is accepted.
    pub(crate) gate: Option<Gate>,
    /// The least number of signatures to remember, to recognize copies of signed requests; none: copies are counted.
    pub(crate) replay_guard: Option<usize>,
    /// The clock for signatures and time stamps.
    pub(crate) clock: fn() -> Timestamp,
    /// The counters, which other tasks read.
    pub(crate) stats: Arc<ServerStats>,
    /// Called by the loop once per second, as a sign that it works.
    pub(crate) pulse: Option<Pulse>,
    /// Takes what has been counted, for other servers; none: nothing is forwarded.
    pub(crate) forward: Option<Arc<dyn ForwardSink>>,
    /// The origin of requests that have been counted in this database, also if this process forwards nothing.
    pub(crate) origin: Option<OwnOrigin>,
    /// The senders whose forwarded requests are passed on although they have no id.
    pub(crate) forward_from: ForwardFrom,
    /// Other servers to ask about checks that find nothing; none: those get the plain miss.
    pub(crate) upstream: Option<UpstreamParts>,
}

/// The server loop with its state.
pub(crate) struct Server {
    socket: tokio::net::UdpSocket,
    /// Whether a service manager keeps the socket for the next server.
    is_passed: bool,
    access: Arc<ArcSwap<Authorizer>>,
    engine: Arc<dyn Engine>,
    clock: fn() -> Timestamp,
    debugging: bool,
    handler: Handler,
    inbox: RequestInbox,
    admission: AdmissionControl,
    replies: Replies,
    opinions: Option<SecondOpinions>,
    sender: ReplySender,
    waiting: VecDeque<EngineWork>,
    in_flight: JoinSet<FinishedBatch>,
    max_in_flight: usize,
    /// The last time the engine completed an asynchronous batch.
    answered: Instant,
    /// The start of the last asynchronous batch.
    begun: Instant,
    /// The time to dispatch again, if the spacing of the engine delays the next batch.
    dispatch_at: Option<Instant>,
    spare_works: Vec<EngineWork>,
    spare_batches: Vec<Batch>,
    stats: Arc<ServerStats>,
    unanswered: UnansweredLog,
    pulse: Option<Pulse>,
    /// The drop counter of the socket as last read; wraps around. None: not read yet, and the socket is older than this
    /// server.
    kernel_drops: Option<u32>,
    complaints: Allowance,
}

impl Server {
    /// Returns a server that is not serving yet.
    ///
    /// # Errors
    ///
    /// The socket cannot be registered with the runtime.
    pub(crate) fn new(parts: ServerParts) -> io::Result<Self> {
        let ServerParts { listener, access, engine, usage, gate, replay_guard, .. } = parts;
        let ServerParts { clock, stats, pulse, forward, origin, forward_from, upstream, .. } = parts;
        let is_passed = listener.is_passed;
        let (sender, socket) = ReplySender::new(listener);
        let max_in_flight = engine.batches_at_a_time().max(1);
        Ok(Self {
            socket: tokio::net::UdpSocket::from_std(socket)?,
            is_passed,
            access,
            engine,
            clock,
            debugging: tracing::enabled!(tracing::Level::DEBUG),
            handler: Handler::default(),
            inbox: RequestInbox::default(),
            admission: AdmissionControl {
                gate,
                replays: replay_guard.map(ReplayGuard::new),
                forwarding: Forwarding::new(forward, origin, forward_from),
                marks: RequestMarks::default(),
            },
            replies: Replies::new(usage, Arc::clone(&stats)),
            opinions: upstream.map(SecondOpinions::new),
            sender,
            waiting: VecDeque::new(),
            in_flight: JoinSet::new(),
            max_in_flight,
            answered: Instant::now(),
            begun: Instant::now(),
            dispatch_at: None,
            spare_works: Vec::new(),
            spare_batches: Vec::new(),
            stats,
            unanswered: UnansweredLog::default(),
            pulse,
            kernel_drops: (!is_passed).then_some(0),
            complaints: Allowance::per_minute(10),
        })
    }

    /// Serves until `stop` is ready, then answers the received requests within a time limit.
    ///
    /// No branch of the loop waits. Branches that requests can trigger come last, so that a flood of requests cannot
    /// starve the others.
    pub(crate) async fn serve(&mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut second = interval_at(tokio::time::Instant::now() + SAMPLE_PERIOD, SAMPLE_PERIOD);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report_at = Instant::now() + UNANSWERED_PERIOD;
        let mut paused_until = None;
        loop {
            let dispatch_at = self.dispatch_at;
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = second.tick() => {
                    self.sample();
                    if Instant::now() >= report_at {
                        report_at = Instant::now() + UNANSWERED_PERIOD;
                        self.report_unanswered();
                    }
                }
                Some(done) = self.in_flight.join_next() => self.take_back(done),
                news = second_opinion::news(&mut self.opinions) => self.take_news(news),
                () = sleep_until(paused_until.unwrap_or_else(Instant::now).into()), if paused_until.is_some() => {
                    paused_until = None;
                }
                () = sleep_until(dispatch_at.unwrap_or_else(Instant::now).into()), if dispatch_at.is_some() => {
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
                        error!("cannot wait for requests: {error}");
                        break;
                    }
                },
            }
        }
        self.drain().await;
        self.report_unanswered();
    }

    /// Receives and handles up to `batches` batches.
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
                        error!("cannot receive requests: {error}");
                    }
                    return Reception::Failed;
                }
            }
            let drops = self.inbox.kernel_drops();
            let before = self.kernel_drops.replace(drops).unwrap_or(drops);
            self.stats.drops.add(DropCause::ReceiveBuffer, u64::from(drops.wrapping_sub(before)));
            self.stats.received.add(self.inbox.len() as u64, 1);
            let now = Instant::now();
            let mut work = self.decide(now);
            if work.is_empty() {
                self.spare_works.push(work);
            } else {
                work.wait_from(now);
                self.waiting.push_back(work);
                // Shed only while the engine is busy. After a pause of this process alone, the requests just
                // received are not old.
                if !self.in_flight.is_empty() {
                    self.shed();
                }
                self.dispatch();
            }
            let was_all = self.inbox.len() < DATAGRAMS_PER_CALL;
            self.send();
            if was_all {
                // The socket was empty. Clearing its readiness saves a system call: new datagrams wake the loop.
                let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = self.socket.try_io(Interest::READABLE, nothing);
                return Reception::Complete;
            }
        }
        Reception::Unfinished
    }

    /// Sends the pending replies. Replies that the system does not accept at once are dropped.
    fn send(&mut self) {
        if self.debugging {
            for (reply, peer) in self.replies.outbox.replies() {
                debug!("Sending: '{}' to {peer}", reply.escape_ascii());
            }
        }
        let drops = &self.stats.drops;
        self.sender.flush(&self.socket, &mut self.replies.outbox, |peer, replies, error| {
            let cause = if error == Errno::EAGAIN { DropCause::SendBuffer } else { DropCause::SendError };
            drops.add(cause, replies as u64);
            // At debug level, because any client can cause this with a forged source address.
            debug!("{replies} replies to {peer} were not sent: {error}");
        });
        self.replies.sent();
        self.replies.usage.hand_over();
    }

    /// Logs the requests not answered since the last report, if any.
    fn report_unanswered(&mut self) {
        if let Some(replays) = &mut self.admission.replays {
            replays.report();
        }
        self.unanswered.report(&self.stats, self.admission.gate.as_mut());
    }

    /// Copies the numbers of exceeded limits to the counters.
    fn note_exceeded(&self) {
        let exceeded = self.admission.gate.as_ref().map_or([0; 3], Gate::exceeded);
        for (counter, exceeded) in self.stats.exceeded.iter().zip(exceeded) {
            counter.set(exceeded);
        }
    }

    /// Records the totals of this second.
    fn sample(&mut self) {
        self.note_exceeded();
        if let Some(opinions) = &self.opinions {
            opinions.sample(&self.stats);
        }
        self.stats.sample();
        if let Some(pulse) = &mut self.pulse {
            pulse();
        }
    }
}

#[cfg(test)]
mod tests;
