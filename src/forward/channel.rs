//! What the server loop, the task and operators share of one server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyzor_home::loggable::loggable_name;
use pyzor_wire::request_writer::Signer;
use tokio::sync::{Notify, watch};

use super::delivery::{Delivery, DeliverySettings};
use super::lines::refusal;
use super::shortfall::Shortfall;
use super::unit_queue::UnitQueue;
use super::{ForwardCounts, ForwardSettings, ForwardStatus};
use crate::remotes::RemoteServer;

/// How long the task of a server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The server is in use.
    Serving,
    /// The server was removed: until this time, what waits is sent.
    Leaving(Instant),
    /// This server stops: until this time, what waits is sent at once.
    Stopping(Instant),
}

/// One server that requests are forwarded to.
#[derive(Debug)]
pub(super) struct Channel {
    /// The host, as the servers file names it.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port, for messages.
    pub(super) name: String,
    /// Wakes the task when a request was queued.
    pub(super) wake: Notify,
    /// Asks the task to look the name up again.
    pub(super) renewal: Notify,
    pub(super) phase: watch::Sender<Phase>,
    /// Locked by the server loop, so that nothing is sent or written under this lock.
    queue: Mutex<UnitQueue>,
    /// Has the account, too, which may change. Locked before `queue`, if both are.
    delivery: Mutex<Delivery>,
    address: Mutex<Option<SocketAddr>>,
    shortfall: Mutex<Shortfall>,
}

impl Channel {
    pub(super) fn new(
        server: RemoteServer,
        settings: &ForwardSettings,
        timeout: std::time::Duration,
    ) -> Self {
        let delivery = DeliverySettings {
            signer: Arc::new(server.signer.clone()),
            timeout,
            retries: settings.retries,
            rate: settings.rate,
        };
        Self {
            name: server.to_string(),
            host: server.host,
            port: server.port,
            wake: Notify::new(),
            renewal: Notify::new(),
            phase: watch::Sender::new(Phase::Serving),
            queue: Mutex::new(UnitQueue::new(settings.queue)),
            delivery: Mutex::new(Delivery::new(delivery, Instant::now())),
            address: Mutex::new(None),
            shortfall: Mutex::default(),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, UnitQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the channel of a server with this host and port.
    pub(super) fn is_for(&self, server: &RemoteServer) -> bool {
        (&self.host, self.port) == (&server.host, server.port)
    }

    /// Makes a removed server one in use again, with its queue and its counters. Returns whether its task goes on.
    pub(super) fn revive(&self) -> bool {
        // The task ends under this lock.
        let queue = self.queue();
        if !queue.is_closed() {
            self.phase.send_replace(Phase::Serving);
        }
        !queue.is_closed()
    }

    /// Ends the queue, unless the server is in use again. Returns the number of digests dropped.
    pub(super) fn close(&self) -> Option<u64> {
        let mut queue = self.queue();
        let phase = *self.phase.borrow();
        (phase != Phase::Serving).then(|| queue.close())
    }

    /// Returns a line on what the server has not counted since the last call.
    pub(super) fn shortfall(&self) -> Option<String> {
        let counts = self.counts();
        self.shortfall.lock().unwrap_or_else(PoisonError::into_inner).line(&self.name, counts)
    }

    /// Uses this account for requests that are sent from now on. Returns a line on the change, if it is one.
    pub(super) fn set_account(&self, signer: Signer) -> Option<String> {
        let before = self.delivery().set_signer(signer.clone())?;
        let (old, new) = (loggable_name(before.user()), loggable_name(signer.user()));
        Some(match before.user() == signer.user() {
            true => format!("Forwarding to {}: the key of the account {new} has changed", self.name),
            false => format!("Forwarding to {}: account changed from {old} to {new}", self.name),
        })
    }

    /// Returns the server and the account, for messages.
    pub(super) fn describe(&self) -> String {
        let signer = self.delivery().signer().clone();
        RemoteServer { host: self.host.clone(), port: self.port, signer }.describe()
    }

    /// Sets the address in use.
    pub(super) fn set_address(&self, address: Option<SocketAddr>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Returns the state, for operators.
    pub(super) fn status(&self, now: Instant) -> ForwardStatus {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let delivery = self.delivery();
        let queue = self.queue();
        let user = loggable_name(delivery.signer().user());
        let refused = || {
            let (code, signer) = delivery.last_refusal(now)?;
            Some(format!("refused: {}", refusal(code, loggable_name(signer.user()))))
        };
        ForwardStatus {
            server: self.name.clone(),
            user: user.to_owned(),
            address: address.map(|address| address.to_string()),
            state: delivery.state(),
            since_seconds: now.saturating_duration_since(delivery.shown_since()).as_secs(),
            reason: delivery.outage_reason().map(str::to_owned).or_else(refused),
            queued: queue.digests(),
            in_flight: delivery.in_flight() as u64,
            dropped_last_minute: queue.dropped_recently(now),
            refused_last_minute: delivery.refused_recently(now),
            accepted_last_minute: delivery.accepted_recently(now),
            silent_last_minute: delivery.silent_recently(now),
        }
    }

    /// Returns the counters, for operators.
    pub(super) fn counts(&self) -> ForwardCounts {
        let counts = self.delivery().counts().clone();
        ForwardCounts { dropped: self.queue().dropped(), ..counts }
    }
}
