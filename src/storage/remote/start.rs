//! The first connection to a store on another machine, which may be starting at the same time.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use super::presence::with_lookup_hint;
use crate::storage::EngineOpenError;

/// Maximum wait for the store at startup.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Interval of the attempts and of the log lines.
const STEP: Duration = Duration::from_secs(1);
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// Reason for a connection, an attempt or a request that timed out.
pub(crate) const NO_ANSWER: &str = "it does not answer";

/// The reason why a store cannot be reached.
#[derive(Debug)]
pub(crate) struct ConnectError {
    /// Text for the operator, without a password.
    pub(crate) why: String,
    /// Whether waiting cannot help, because the configuration must change first.
    pub(crate) is_permanent: bool,
}

impl ConnectError {
    /// An error that a later attempt may not have.
    pub(crate) fn temporary(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_permanent: false }
    }

    /// An error that stays until the configuration changes.
    pub(crate) fn permanent(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_permanent: true }
    }
}

/// Tries to connect once, for up to three seconds.
pub(crate) async fn connect_once<T>(
    name: &str,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, EngineOpenError> {
    match timeout(ATTEMPT_LIMIT, attempt).await {
        Ok(reached) => {
            reached.map_err(|failure| EngineOpenError::new(format!("cannot use {name}: {}", failure.why)))
        }
        Err(_) => Err(EngineOpenError::new(format!("cannot use {name}: {NO_ANSWER}"))),
    }
}

/// Tries to connect for up to ten seconds, and logs a line for each second of waiting.
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
                Err(_) if step >= end || step >= started + ATTEMPT_LIMIT => break NO_ANSWER.to_owned(),
                // A slow network may need longer than one step.
                Err(_) => {
                    warn!("waiting for {name}: {NO_ANSWER}");
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
