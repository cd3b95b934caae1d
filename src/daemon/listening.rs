//! Binding the socket, with time for a port or an address that is about to be free or there.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::warn;

use super::console::say;
use super::prepare::{HANDOVER, HANDOVER_STEP};
use crate::os::signals;
use crate::server::socket::{BindError, Listener, UnboundSocket};
use crate::settings::Settings;

/// How long an address is waited for that no interface has yet, or its interface, as before a VPN is up.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
/// How often a line says that it is waited for.
const REMINDER: Duration = Duration::from_secs(1);

/// Why the socket was not bound before there was a runtime.
pub(super) enum BindAborted {
    /// It cannot be.
    Failed(BindError),
    /// This signal asked for the end meanwhile.
    Stopped(&'static str),
}

/// The socket, as far as root had to make it.
#[derive(Debug)]
pub(super) enum RootSocket {
    /// It has its port.
    Bound(Listener),
    /// It gets its port as the last thing before service.
    Unbound(UnboundSocket),
}

impl RootSocket {
    /// All descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Bound(listener) => listener.descriptors().collect(),
            Self::Unbound(unbound) => vec![unbound.descriptor()],
        }
    }
}

/// Makes the socket as root, before there are logs and a runtime: with its port, which may be one that only root
/// can bind, or without, if requests that come to it would be kept from other processes on the port. The signals to
/// stop must be blocked, and end the waiting.
///
/// # Errors
///
/// The socket cannot be made or bound, or a signal asked for the end.
pub(super) fn open_as_root(settings: &Settings) -> Result<RootSocket, BindAborted> {
    let unbound = open(settings).map_err(BindAborted::Failed)?;
    if settings.reuse_port {
        return Ok(RootSocket::Unbound(unbound));
    }
    let mut attempts = BindAttempts::new(&unbound, |text| say("warning", &text));
    loop {
        match attempts.next() {
            BindAttempt::Over(outcome) => return outcome.map(RootSocket::Bound).map_err(BindAborted::Failed),
            BindAttempt::Again(pause) => {
                if let Some(name) = signals::stopped_within(pause) {
                    return Err(BindAborted::Stopped(name));
                }
            }
        }
    }
}

/// Gives the socket its port, and makes it if that was not done as root.
///
/// # Errors
///
/// It cannot be bound, also after waiting for what may pass.
pub(super) async fn listen(settings: &Settings, socket: Option<RootSocket>) -> Result<Listener, BindError> {
    let unbound = match socket {
        Some(RootSocket::Bound(listener)) => return Ok(listener),
        Some(RootSocket::Unbound(unbound)) => unbound,
        None => open(settings)?,
    };
    let mut attempts = BindAttempts::new(&unbound, |text| warn!("{text}"));
    loop {
        match attempts.next() {
            BindAttempt::Over(outcome) => return *outcome,
            BindAttempt::Again(pause) => sleep(pause).await,
        }
    }
}

fn open(settings: &Settings) -> Result<UnboundSocket, BindError> {
    let Settings { listen_address, port, send_buffer, reuse_port, .. } = settings;
    UnboundSocket::open(listen_address, *port, *send_buffer, *reuse_port)
}

enum BindAttempt {
    Over(Box<Result<Listener, BindError>>),
    Again(Duration),
}

/// Attempts to bind the socket, for as long as what is in the way may go.
struct BindAttempts<'a, F> {
    unbound: &'a UnboundSocket,
    warn: F,
    started: Instant,
    warned: Option<Instant>,
}

impl<'a, F: Fn(String)> BindAttempts<'a, F> {
    fn new(unbound: &'a UnboundSocket, warn: F) -> Self {
        Self { unbound, warn, started: Instant::now(), warned: None }
    }

    fn next(&mut self) -> BindAttempt {
        let outcome = self.unbound.bind();
        let patience = match &outcome {
            Err(BindError::InUse { .. } | BindError::NotShared { .. }) => HANDOVER,
            Err(BindError::Absent { .. } | BindError::AbsentInterface { .. }) => ADDRESS_WAIT,
            _ => return BindAttempt::Over(Box::new(outcome)),
        };
        if self.started.elapsed() >= patience {
            return BindAttempt::Over(Box::new(outcome));
        }
        let what = match &outcome {
            Err(BindError::Absent { address }) => {
                Some(format!("the address {}, which no interface has yet", address.ip()))
            }
            Err(BindError::AbsentInterface { address }) => {
                Some(format!("the address {address}, whose interface is not there yet"))
            }
            _ => None,
        };
        if let Some(what) = what
            && self.warned.is_none_or(|warned| warned.elapsed() >= REMINDER)
        {
            self.warned = Some(Instant::now());
            (self.warn)(format!("waiting for {what} (ListenAddress)"));
        }
        BindAttempt::Again(HANDOVER_STEP)
    }
}
