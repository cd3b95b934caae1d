//! Reaching a store on another machine, and waiting for it at the start, when it may be starting, too.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use super::presence::with_lookup_hint;
use crate::storage::EngineOpenError;

/// How long the store is waited for.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often that is said.
const STEP: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const LONGEST: Duration = Duration::from_secs(3);

/// Why a store cannot be reached.
#[derive(Debug)]
pub(crate) struct ConnectError {
    /// For people, without a password.
    pub(crate) why: String,
    /// Whether somebody must change something first, so that waiting cannot help.
    pub(crate) is_permanent: bool,
}

impl ConnectError {
    /// One that may pass.
    pub(crate) fn temporary(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_permanent: false }
    }

    /// One that will not.
    pub(crate) fn permanent(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_permanent: true }
    }
}

/// Tries once, for somebody who waits for the outcome.
pub(crate) async fn connect_once<T>(
    name: &str,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, EngineOpenError> {
    match timeout(LONGEST, attempt).await {
        Ok(reached) => {
            reached.map_err(|failure| EngineOpenError::new(format!("cannot use {name}: {}", failure.why)))
        }
        Err(_) => Err(EngineOpenError::new(format!("cannot use {name}: it does not answer"))),
    }
}

/// Tries until the store is there, with a line in the log for each second.
pub(crate) async fn connect_when_ready<T, F: Future<Output = Result<T, ConnectError>>>(
    name: &str,
    attempt: impl Fn() -> F,
) -> Result<T, EngineOpenError> {
    let end = Instant::now() + START_LIMIT;
    loop {
        let started = Instant::now();
        let mut attempt = pin!(attempt());
        let mut step = started + STEP;
        let why = loop {
            match timeout_at(step, attempt.as_mut()).await {
                Ok(Ok(reached)) => return Ok(reached),
                Ok(Err(ConnectError { why, is_permanent: true })) => {
                    return Err(EngineOpenError::new(format!("cannot use {name}: {why}")));
                }
                Ok(Err(ConnectError { why, .. })) => break with_lookup_hint(why),
                // It may be far away, but not that far.
                Err(_) if step >= end || step >= started + LONGEST => break "it does not answer".to_owned(),
                Err(_) => {
                    warn!("waiting for {name}: it does not answer");
                    step += STEP;
                }
            }
        };
        if Instant::now() >= end {
            return Err(EngineOpenError::new(format!(
                "{name} could not be reached within {} seconds: {why}",
                START_LIMIT.as_secs()
            )));
        }
        warn!("waiting for {name}: {why}");
        sleep_until(step).await;
    }
}
