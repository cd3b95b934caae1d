//! What the server loop, the task and operators share of one server.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pyzor_home::loggable::loggable_name;
use tokio::sync::{Notify, watch};

use super::delivery::{Delivery, DeliverySettings};
use super::lines::refusal;
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
    pub(super) server: RemoteServer,
    /// Wakes the task when a request was queued.
    pub(super) wake: Notify,
    pub(super) phase: watch::Sender<Phase>,
    /// Locked by the server loop, so that nothing is sent or written under this lock.
    queue: Mutex<UnitQueue>,
    /// Locked before `queue`, if both are.
    delivery: Mutex<Delivery>,
    address: Mutex<Option<SocketAddr>>,
}

impl Channel {
    pub(super) fn new(
        server: RemoteServer,
        settings: &ForwardSettings,
        timeout: std::time::Duration,
    ) -> Self {
        let delivery = DeliverySettings {
            signer: server.signer.clone(),
            timeout,
            retries: settings.retries,
            rate: settings.rate,
        };
        Self {
            server,
            wake: Notify::new(),
            phase: watch::Sender::new(Phase::Serving),
            queue: Mutex::new(UnitQueue::new(settings.queue)),
            delivery: Mutex::new(Delivery::new(delivery, Instant::now())),
            address: Mutex::new(None),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, UnitQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
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
        let user = loggable_name(delivery.user());
        let refused = || delivery.last_refusal(now).map(|code| format!("refused: {}", refusal(code, user)));
        ForwardStatus {
            server: self.server.to_string(),
            user: user.to_owned(),
            address: address.map(|address| address.to_string()),
            state: delivery.state(),
            since_seconds: now.saturating_duration_since(delivery.since()).as_secs(),
            reason: delivery.outage_reason().map(str::to_owned).or_else(refused),
            queued: queue.digests(),
            in_flight: delivery.in_flight() as u64,
            dropped_last_minute: queue.dropped_recently(now),
            refused_last_minute: delivery.refused_recently(now),
        }
    }

    /// Returns the counters, for operators.
    pub(super) fn counts(&self) -> ForwardCounts {
        let counts = self.delivery().counts().clone();
        ForwardCounts { dropped: self.queue().dropped(), ..counts }
    }
}
