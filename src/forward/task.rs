//! The task of one server: sockets, timers and names around [`Delivery`](super::delivery::Delivery).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::MAX_DATAGRAM;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::warn;

use super::ForwardState;
use super::channel::{Channel, Phase};
use super::connection::Connection;
use super::delivery::{Step, Unsent};
use super::lines::ServerLines;
use crate::record::Timestamp;
use crate::remotes::{Addresses, LookUp, LookUpResult, socket_reason};

/// The most datagrams received before requests are sent again.
const RECEIVED_AT_ONCE: usize = 64;

/// The pause between two turns while little is under way. Requests and replies are then handled in groups, which costs
/// fewer wake-ups of this thread, and none of the server loop.
const GATHERING: Duration = Duration::from_millis(1);

/// The task of one server.
pub(super) struct ServerTask {
    channel: Arc<Channel>,
    phase: watch::Receiver<Phase>,
    /// The address of this server itself.
    listening: SocketAddr,
    connection: Connection,
    look_up: LookUp,
    /// Whether no look-up of the name has ended yet.
    is_new: bool,
    /// Whether the name must be looked up again. A look-up that has begun before would miss what has changed since.
    wants_renewal: bool,
    /// Whether an address in use that the name does not have any more is left, although it may reply.
    is_renewal: bool,
    lines: ServerLines,
}

impl ServerTask {
    pub(super) fn new(channel: Arc<Channel>, listening: SocketAddr) -> Self {
        let lines = ServerLines::new(channel.name.clone());
        let phase = channel.phase.subscribe();
        Self {
            channel,
            phase,
            listening,
            connection: Connection::default(),
            look_up: LookUp::default(),
            is_new: true,
            wants_renewal: false,
            is_renewal: false,
            lines,
        }
    }

    /// Sends what is queued, until the server is removed or this one stops.
    pub(super) async fn run(mut self) {
        self.look_up();
        loop {
            // First, because replies may have waited while the process was stopped: they are not silence.
            self.receive();
            if self.wants_renewal && !self.look_up.is_under_way() {
                (self.wants_renewal, self.is_renewal) = (false, true);
                self.look_up();
            }
            let wake_up = self.act();
            self.report();
            if self.is_finished()
                && let Some(unsent) = self.channel.close()
            {
                return self.end(unsent);
            }
            let by = match *self.phase.borrow() {
                Phase::Serving => None,
                Phase::Leaving(by) | Phase::Stopping(by) => Some(by),
            };
            let wake_up = wake_up.into_iter().chain(by).min();
            if by.is_none() && self.channel.delivery().may_pause() {
                sleep(GATHERING).await;
            }
            tokio::select! {
                () = self.connection.arrival() => {}
                answer = self.look_up.result() => self.take_addresses(answer),
                () = self.channel.wake.notified() => {}
                () = self.channel.renewal.notified() => self.wants_renewal = true,
                Ok(()) = self.phase.changed() => self.begin_phase(),
                () = wait_until(wake_up) => {}
            }
        }
    }

    /// Reports what was not sent or not counted: the counters of a removed server are gone.
    fn end(self, unsent: u64) {
        let unanswered = self.channel.delivery().abandon(Instant::now());
        self.lines.left(unsent, unanswered);
        self.channel.shortfall().iter().for_each(|line| warn!("{line}"));
    }

    /// Sends what can be sent. Returns the time at which more is due.
    fn act(&mut self) -> Option<Instant> {
        let (mut now, time) = (Instant::now(), Timestamp::now().seconds());
        let channel = Arc::clone(&self.channel);
        let mut delivery = channel.delivery();
        delivery.catch_up(|| channel.queue().requests());
        let timeout = delivery.timeout();
        loop {
            let since = delivery.since();
            let is_open = self.connection.is_open();
            match delivery.poll(now, time, is_open, || channel.queue().pop()) {
                Step::Wait(until) => return until,
                Step::Send(datagram) => {
                    let outcome = self.connection.send(datagram);
                    now = Instant::now();
                    let returned = match outcome {
                        Ok(()) => {
                            delivery.sent(now);
                            None
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            delivery.unsent(Unsent::Blocked, now)
                        }
                        Err(error) => delivery.unsent(Unsent::Failed(socket_reason(&error)), now),
                    };
                    returned.into_iter().for_each(|unit| channel.queue().put_back(unit));
                }
                Step::Ping(datagram) => {
                    let is_last = self.connection.is_at_last();
                    let outcome = self
                        .connection
                        .renew(now, timeout, since)
                        .and_then(|()| self.connection.send(datagram));
                    channel.set_address(self.connection.address());
                    if let Err(error) = outcome {
                        // Without an address the reason is that of the look-up.
                        if self.connection.len() > 0 {
                            delivery.failed(socket_reason(&error), Instant::now());
                        }
                    }
                    if is_last {
                        self.look_up();
                    }
                }
            }
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self) {
        let channel = Arc::clone(&self.channel);
        let mut delivery = channel.delivery();
        let now = Instant::now();
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..RECEIVED_AT_ONCE {
            match self.connection.receive(&mut buffer) {
                Ok(length) => delivery.received(&buffer[..length], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => delivery.failed(socket_reason(&error), now),
            }
        }
    }

    /// Looks the name up, unless a look-up is under way.
    fn look_up(&mut self) {
        self.look_up.begin(&self.channel.host, self.channel.port, self.listening);
    }

    fn take_addresses(&mut self, answer: LookUpResult) {
        let now = Instant::now();
        let is_first = answer.is_ok() && std::mem::take(&mut self.is_new);
        let is_renewal = std::mem::take(&mut self.is_renewal);
        let Addresses { usable, own } = match answer {
            Ok(addresses) => addresses,
            // Known addresses stay in use.
            Err(reason) if self.connection.len() > 0 => {
                if is_renewal {
                    self.lines.not_renewed(&reason);
                }
                return;
            }
            Err(reason) => return self.channel.delivery().failed(reason, now),
        };
        self.lines.own_addresses(&own, now);
        if usable.is_empty() && own.is_empty() {
            return self.channel.delivery().failed("its name has no address".to_owned(), now);
        }
        if usable.is_empty() {
            return self.take_own_addresses(&own, is_first, now);
        }
        self.channel.queue().refuse(false);
        let is_changed = self.connection.set_addresses(usable);
        let mut delivery = self.channel.delivery();
        delivery.resolved(self.connection.len(), is_changed, now);
        let must_connect = !self.connection.is_open() || is_renewal && !self.connection.is_listed();
        if must_connect && delivery.state() != ForwardState::Unavailable {
            let mut outcome = Ok(());
            for _ in 0..self.connection.len() {
                outcome = self.connection.connect_to_next();
                if outcome.is_ok() {
                    break;
                }
            }
            if let Err(error) = outcome {
                delivery.failed(socket_reason(&error), now);
            }
            self.channel.set_address(self.connection.address());
        }
    }

    /// The name has only addresses of this server itself. If that is so from the first look-up on, the line in the servers
    /// file is a mistake, and nothing is queued. Otherwise it is an outage: the name may have other addresses again.
    fn take_own_addresses(&mut self, own: &[SocketAddr], is_first: bool, now: Instant) {
        self.connection.set_addresses(Vec::new());
        self.connection.close();
        self.channel.set_address(None);
        let mut delivery = self.channel.delivery();
        delivery.resolved(0, false, now);
        if is_first {
            self.channel.queue().refuse(true);
        }
        let address = own.first().map(|address| format!(" {address}")).unwrap_or_default();
        if self.channel.queue().is_refused() {
            delivery.is_own(now);
        } else {
            delivery.failed(format!("its name has the address{address} of this server itself"), now);
        }
    }

    /// Begins to end the task, if it must.
    fn begin_phase(&self) {
        // Not borrowed meanwhile, because others change it under locks.
        let phase = *self.phase.borrow();
        match phase {
            Phase::Serving => {}
            Phase::Leaving(_) => self.channel.delivery().end_pause(Instant::now()),
            Phase::Stopping(_) => self.channel.delivery().hurry(Instant::now()),
        }
    }

    /// Whether the task must end, and nothing can be sent or is expected any more.
    fn is_finished(&self) -> bool {
        let phase = *self.phase.borrow();
        let delivery = self.channel.delivery();
        let is_empty = self.channel.queue().digests() == 0;
        let (is_done, by) = match phase {
            Phase::Serving => return false,
            // It may be available again soon, or in use again.
            Phase::Leaving(by) => (is_empty && delivery.in_flight() == 0, by),
            Phase::Stopping(by) => {
                let is_unavailable = delivery.state() == ForwardState::Unavailable;
                (is_unavailable || is_empty && delivery.is_idle(), by)
            }
        };
        is_done || Instant::now() >= by
    }

    /// Writes log lines.
    fn report(&mut self) {
        let now = Instant::now();
        let mut delivery = self.channel.delivery();
        let events = delivery.take_events();
        drop(delivery);
        let mut queue = self.channel.queue();
        let (queued, limit) = (queue.digests(), queue.limit());
        let mut dropped = std::mem::take(queue.unreported());
        drop(queue);
        for event in events {
            self.lines.event(event, queued, now);
            self.lines.outage(now);
        }
        self.lines.outage(now);
        self.lines.dropped(&mut dropped, limit, now);
        *self.channel.queue().unreported() += dropped;
    }
}

/// Waits until this time. Never returns without one.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
