//! Reaching a store on another machine, and waiting for it at the start, when it may be starting, too.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use super::presence::explained;
use crate::storage::OpenError;

/// How long the store is waited for.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often that is said.
const STEP: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const LONGEST: Duration = Duration::from_secs(3);

/// Why a store cannot be reached.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For people, without a password.
    pub(crate) why: String,
    /// Whether somebody must change something first, so that waiting cannot help.
    pub(crate) is_final: bool,
}

impl Failure {
    /// One that may pass.
    pub(crate) fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: false }
    }

    /// One that will not.
    pub(crate) fn fatal(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: true }
    }
}

/// Tries once, for somebody who waits for the outcome.
pub(crate) async fn reach<T>(
    name: &str,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, OpenError> {
    match timeout(LONGEST, attempt).await {
        Ok(reached) => {
            reached.map_err(|failure| OpenError::new(format!("cannot use {name}: {}", failure.why)))
        }
        Err(_) => Err(OpenError::new(format!("cannot use {name}: it does not answer"))),
    }
}

/// Tries until the store is there, with a line in the log for each second.
pub(crate) async fn wait_for<T, F: Future<Output = Result<T, Failure>>>(
    name: &str,
    attempt: impl Fn() -> F,
) -> Result<T, OpenError> {
    let end = Instant::now() + START_LIMIT;
    loop {
        let started = Instant::now();
        let mut attempt = pin!(attempt());
        let mut step = started + STEP;
        let why = loop {
            match timeout_at(step, attempt.as_mut()).await {
                Ok(Ok(reached)) => return Ok(reached),
                Ok(Err(Failure { why, is_final: true })) => {
                    return Err(OpenError::new(format!("cannot use {name}: {why}")));
                }
                Ok(Err(Failure { why, .. })) => break explained(why),
                // It may be far away, but not that far.
                Err(_) if step >= end || step >= started + LONGEST => break "it does not answer".to_owned(),
                Err(_) => {
                    warn!("waiting for {name}: it does not answer");
                    step += STEP;
                }
            }
        };
        if Instant::now() >= end {
            return Err(OpenError::new(format!(
                "{name} could not be reached within {} seconds: {why}",
                START_LIMIT.as_secs()
            )));
        }
        warn!("waiting for {name}: {why}");
        sleep_until(step).await;
    }
}
