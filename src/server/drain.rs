//! Shutdown: received requests are answered, within a time limit.

use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{sleep, timeout, timeout_at};
use tracing::warn;

use super::work::EngineWork;
use super::{PAUSE, Reception, Server, socket};

/// The most batches received from the socket during shutdown.
const BATCHES_AT_END: usize = 64;
/// The longest time a shutdown takes.
const DRAIN_BOUND: Duration = Duration::from_secs(5);

impl Server {
    /// Answers the requests in the socket and in flight, for at most [`DRAIN_BOUND`].
    pub(super) async fn drain(&mut self) {
        let bound = Instant::now() + DRAIN_BOUND;
        self.end_second_opinions();
        // A connected socket would receive nothing for the next server.
        if !self.is_passed
            && let Err(error) = socket::leave_shared_port(&self.socket)
        {
            warn!("cannot hand the shared port over to the other processes: {error}; requests may be lost");
        }
        // Polls the runtime once, which updates the readiness of the socket.
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
        while !self.in_flight.is_empty() {
            match timeout_at(bound.into(), self.in_flight.join_next()).await {
                Ok(Some(done)) => self.take_back(done),
                Ok(None) => break,
                Err(_) => {
                    let lost: usize = self.waiting.iter().map(EngineWork::len).sum();
                    warn!(
                        "the database did not answer in time: {} batches and {lost} waiting requests are dropped",
                        self.in_flight.len()
                    );
                    break;
                }
            }
        }
        self.in_flight.shutdown().await;
    }
}
