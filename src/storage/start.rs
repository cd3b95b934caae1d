//! Waiting at the start for a store on another machine, which may be starting, too.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

use super::OpenError;

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is said, and the store tried at least.
const STEP: Duration = Duration::from_secs(1);

/// Why an attempt to reach the store failed.
#[derive(Debug)]
pub(super) enum Attempt {
    /// Another one may succeed.
    Passing(String),
    /// Somebody must change something first.
    Final(String),
}

/// Tries until the store is there, once a second and with a line in the log for each time.
pub(super) async fn wait_for<T, F: Future<Output = Result<T, Attempt>>>(
    name: &str,
    attempt: impl Fn() -> F,
) -> Result<T, OpenError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let step = Instant::now() + STEP;
        let why = match timeout_at(step, attempt()).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(Attempt::Final(why))) => {
                return Err(OpenError::new(format!("cannot use {name}: {why}")));
            }
            Ok(Err(Attempt::Passing(why))) => why,
            Err(_) => "it does not answer".to_owned(),
        };
        if step >= end {
            return Err(OpenError::new(format!(
                "{name} could not be reached within {} seconds: {why}",
                PATIENCE.as_secs()
            )));
        }
        warn!("waiting for {name}: {why}");
        sleep_until(step).await;
    }
}
