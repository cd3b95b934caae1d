//! Reaching a store on another machine, and waiting for it at the start, when it may be starting, too.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

use super::OpenError;

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is said, and the store tried at least.
const STEP: Duration = Duration::from_secs(1);

/// Why a store cannot be reached.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people, without a password.
    pub(super) why: String,
    /// Whether somebody must change something first, so that waiting cannot help.
    pub(super) is_final: bool,
}

impl Failure {
    /// One that may pass.
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: false }
    }

    /// One that will not.
    pub(super) fn fatal(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: true }
    }
}

/// Tries until the store is there, once a second and with a line in the log for each time.
pub(super) async fn wait_for<T, F: Future<Output = Result<T, Failure>>>(
    name: &str,
    attempt: impl Fn() -> F,
) -> Result<T, OpenError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let step = Instant::now() + STEP;
        let why = match timeout_at(step, attempt()).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(Failure { why, is_final: true })) => {
                return Err(OpenError::new(format!("cannot use {name}: {why}")));
            }
            Ok(Err(Failure { why, .. })) => why,
            Err(_) => "it does not answer".to_owned(),
        };
        if Instant::now() >= end {
            return Err(OpenError::new(format!(
                "{name} could not be reached within {} seconds: {why}",
                PATIENCE.as_secs()
            )));
        }
        warn!("waiting for {name}: {why}");
        sleep_until(step).await;
    }
}
