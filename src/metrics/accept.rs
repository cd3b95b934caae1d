//! The task that accepts connections.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::Observed;
use super::connection::exchange;
use super::listener::Acceptor;
use crate::logging::allowance::{Allowance, withheld_note};
use crate::os::stream_listener::StreamListener;

/// The maximum number of open connections.
const CONNECTIONS: usize = 16;
/// The pause after each accepted connection. It bounds the share of the thread that connections can take, and leaves
/// each one at least `CONNECTIONS` times as long before others can displace it.
const SPACING: Duration = Duration::from_millis(2);
/// The pause after an error of the listener, such as a lack of descriptors.
const PAUSE: Duration = Duration::from_secs(1);
/// The time limit of a connection, for the request and the response together.
const LIMIT: Duration = Duration::from_secs(10);

/// Accepts connections and answers them until the future is dropped, which closes all connections.
pub(super) async fn accept_all(listener: StreamListener, observed: Arc<dyn Observed>) {
    let acceptor = match Acceptor::new(listener) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            error!("cannot serve metrics: {error}; restart pyzord to try again");
            return;
        }
    };
    let transport = acceptor.transport();
    let mut warnings = Allowance::per_minute(1);
    let mut open = OpenConnections::default();
    loop {
        match acceptor.accept().await {
            Ok(stream) => {
                open.add(limited(exchange(stream, transport, Arc::clone(&observed))));
                sleep(SPACING).await;
            }
            Err(error) => {
                if let Some(withheld) = warnings.take(Instant::now()) {
                    warn!("cannot accept a connection for metrics: {error}{}", withheld_note(withheld));
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Ends a connection at the time limit: also one whose peer never sends its request, or never reads the response.
async fn limited(connection: impl Future<Output = ()>) {
    // A connection that takes too long is closed without a response.
    let _ = timeout(LIMIT, connection).await;
}

/// The open connections, the oldest first.
#[derive(Default)]
struct OpenConnections {
    tasks: JoinSet<()>,
    handles: VecDeque<AbortHandle>,
}

impl OpenConnections {
    /// Starts the task of a connection. Closes the oldest connection if there are too many: a peer that keeps its
    /// connections open must not keep others away.
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= CONNECTIONS
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(self.tasks.spawn(connection));
    }
}
