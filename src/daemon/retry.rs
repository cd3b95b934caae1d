//! Retries for resources that are busy or absent for a moment: a lock or port that a stopping server still holds, or an
//! address that is added late.

use std::time::{Duration, Instant};

use tracing::warn;

use super::console::say;
use super::error::StartError;
use super::operator_sockets::MetricsListenError;
use crate::os::local_socket::LocalSocketError;
use crate::os::pidfile::PidFileError;
use crate::os::signals;
use crate::server::socket::BindError;
use crate::storage::EngineOpenError;

/// The time limit of retries for a lock or port that another process holds.
const HANDOVER: Duration = Duration::from_secs(2);
/// The time limit of retries for an address or interface that does not exist yet, for example before a VPN is up.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// The time between two lines that report the wait.
const REMINDER: Duration = Duration::from_secs(1);

/// An error that may be temporary.
pub(super) trait Transient {
    /// Returns the time limit of retries since the first attempt; zero if the error is final.
    fn patience(&self) -> Duration;

    /// Returns a line that reports the wait to the operator, or `None` for a short wait.
    fn waiting(&self) -> Option<String> {
        None
    }
}

impl Transient for PidFileError {
    fn patience(&self) -> Duration {
        if self.is_busy() { HANDOVER } else { Duration::ZERO }
    }
}

impl Transient for EngineOpenError {
    fn patience(&self) -> Duration {
        if self.is_busy() { HANDOVER } else { Duration::ZERO }
    }
}

impl Transient for LocalSocketError {
    fn patience(&self) -> Duration {
        if self.is_busy() { HANDOVER } else { Duration::ZERO }
    }
}

impl Transient for MetricsListenError {
    fn patience(&self) -> Duration {
        if self.is_busy() { HANDOVER } else { Duration::ZERO }
    }
}

impl Transient for BindError {
    fn patience(&self) -> Duration {
        match self {
            Self::InUse { .. } | Self::NotShared { .. } => HANDOVER,
            Self::Absent { .. } | Self::AbsentInterface { .. } => ADDRESS_WAIT,
            _ => Duration::ZERO,
        }
    }

    fn waiting(&self) -> Option<String> {
        match self {
            Self::Absent { address } => Some(format!(
                "waiting for the address {}: no interface has it yet (ListenAddress)",
                address.ip()
            )),
            Self::AbsentInterface { address } => Some(format!(
                "waiting for the address {address}: its interface does not exist yet (ListenAddress)"
            )),
            _ => None,
        }
    }
}

/// Retries while the error is transient, within its patience.
pub(super) async fn retry<T, E: Transient>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let mut wait = Wait::new(|line| warn!("{line}"));
    loop {
        match attempt().await {
            Err(error) if wait.covers(&error) => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Retries like [`retry`], before the runtime exists. The signals to stop must be blocked; one of them
/// ends the attempts with [`StartError::Stopped`].
pub(super) fn retry_blocking<T, E: Transient>(
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, StartError>
where
    StartError: From<E>,
{
    let mut wait = Wait::new(|line| say("warning", line));
    let mut pause = Duration::ZERO;
    loop {
        if let Some(name) = signals::stopped_within(pause) {
            return Err(StartError::Stopped(name));
        }
        match attempt() {
            Err(error) if wait.covers(&error) => pause = PAUSE,
            outcome => return Ok(outcome?),
        }
    }
}

/// The time of the first attempt, and of the last line about the wait.
struct Wait<F> {
    warn: F,
    started: Instant,
    warned: Option<Instant>,
}

impl<F: Fn(&String)> Wait<F> {
    fn new(warn: F) -> Self {
        Self { warn, started: Instant::now(), warned: None }
    }

    /// Returns whether another attempt is due after this error.
    fn covers(&mut self, error: &impl Transient) -> bool {
        if self.started.elapsed() >= error.patience() {
            return false;
        }
        if let Some(line) = error.waiting()
            && self.warned.is_none_or(|warned| warned.elapsed() >= REMINDER)
        {
            self.warned = Some(Instant::now());
            (self.warn)(&line);
        }
        true
    }
}
