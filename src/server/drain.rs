//! The end of the service: what was received is answered, within a bound.

use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{sleep, timeout, timeout_at};
use tracing::warn;

use super::work::EngineWork;
use super::{PAUSE, Reception, Server, socket};

/// How many batches of what the socket still holds are received at the end.
const BATCHES_AT_END: usize = 64;
/// How long the end may take.
const DRAIN_BOUND: Duration = Duration::from_secs(5);

impl Server {
    /// Answers what the socket holds and what is under way, but for no longer than the bound.
    pub(super) async fn drain(&mut self) {
        let bound = Instant::now() + DRAIN_BOUND;
        if let Err(error) = socket::leave_shared_port(&self.socket) {
            warn!("the port cannot be left to other processes before the end: {error}; requests may be lost");
        }
        // What has arrived in the meantime is known once the runtime has looked.
        let _ = timeout(Duration::ZERO, self.socket.readable()).await;
        for _ in 0..BATCHES_AT_END {
            if Instant::now() >= bound {
                break;
            }
            match self.receive(1) {
                Reception::Complete => break,
                Reception::Unfinished => yield_now().await,
                Reception::Failed => sleep(PAUSE).await,
            }
        }
        while !self.under_way.is_empty() {
            match timeout_at(bound.into(), self.under_way.join_next()).await {
                Ok(Some(done)) => self.take_back(done),
                Ok(None) => break,
                Err(_) => {
                    let lost: usize = self.waiting.iter().map(EngineWork::len).sum();
                    warn!(
                        "the database did not answer in time: {} batches and {lost} requests get no reply",
                        self.under_way.len()
                    );
                    break;
                }
            }
        }
        self.under_way.shutdown().await;
    }
}
