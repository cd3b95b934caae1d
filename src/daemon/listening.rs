//! Binding the socket, with time for a port or an address that is about to be free or there.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::warn;

use super::prepare::{HANDOVER, HANDOVER_STEP};
use super::say;
use crate::os::signals;
use crate::server::socket::{BindError, Listener, bind};
use crate::settings::Settings;

/// How long an address is waited for that no interface has yet, or its interface, as before a VPN is up.
const ABSENCE: Duration = Duration::from_secs(10);
/// How often a line says that it is waited for.
const REMINDER: Duration = Duration::from_secs(1);

/// Why the socket was not bound before there was a runtime.
pub(super) enum Interrupted {
    /// It cannot be.
    Failed(BindError),
    /// This signal asked for the end meanwhile.
    Stopped(&'static str),
}

/// Binds the socket.
///
/// # Errors
///
/// It cannot be bound, also after waiting for what may pass.
pub(super) async fn listen(settings: &Settings) -> Result<Listener, BindError> {
    let mut attempts = Attempts::new(settings, |text| warn!("{text}"));
    loop {
        match attempts.next() {
            Attempt::Over(outcome) => return *outcome,
            Attempt::Again(pause) => sleep(pause).await,
        }
    }
}

/// Binds the socket before there are logs and a runtime. The signals to stop must be blocked, and end the
/// waiting.
///
/// # Errors
///
/// The socket cannot be bound, or a signal asked for the end.
pub(super) fn listen_at_once(settings: &Settings) -> Result<Listener, Interrupted> {
    let mut attempts = Attempts::new(settings, |text| say("warning", &text));
    loop {
        match attempts.next() {
            Attempt::Over(outcome) => return outcome.map_err(Interrupted::Failed),
            Attempt::Again(pause) => {
                if let Some(name) = signals::stopped_within(pause) {
                    return Err(Interrupted::Stopped(name));
                }
            }
        }
    }
}

enum Attempt {
    Over(Box<Result<Listener, BindError>>),
    Again(Duration),
}

/// Attempts to bind the socket.
struct Attempts<'a, F> {
    settings: &'a Settings,
    tell: F,
    started: Instant,
    told: Option<Instant>,
}

impl<'a, F: Fn(String)> Attempts<'a, F> {
    fn new(settings: &'a Settings, tell: F) -> Self {
        Self { settings, tell, started: Instant::now(), told: None }
    }

    fn next(&mut self) -> Attempt {
        let Settings { listen_address, port, send_buffer, reuse_port, .. } = self.settings;
        let outcome = bind(listen_address, *port, *send_buffer, *reuse_port);
        let patience = match &outcome {
            Err(BindError::InUse { .. } | BindError::NotShared { .. }) => HANDOVER,
            Err(BindError::Absent { .. } | BindError::AbsentInterface { .. }) => ABSENCE,
            _ => return Attempt::Over(Box::new(outcome)),
        };
        if self.started.elapsed() >= patience {
            return Attempt::Over(Box::new(outcome));
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
            && self.told.is_none_or(|told| told.elapsed() >= REMINDER)
        {
            self.told = Some(Instant::now());
            (self.tell)(format!("waiting for {what} (ListenAddress)"));
        }
        Attempt::Again(HANDOVER_STEP)
    }
}
