//! The state and the counters of the server by HTTP, for Prometheus and other monitoring.
//!
//! The task runs beside the server loop on the same thread, so everything is bounded: the number of connections, the
//! rate at which they are accepted, the size of a request, and the duration of a connection, which ends after one
//! response. No request changes anything.

mod accept;
mod connection;
mod families;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host;
mod listener;
mod page;
mod remote;
mod route;
mod snapshot;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::Arc;

use crate::control::reply::StatusReport;
use crate::os::stream_listener::StreamListener;
use crate::stats::StatsReport;

/// The server as the pages show it. Neither method may wait.
pub(crate) trait Observed: Send + Sync {
    /// Returns the state of the server.
    fn status(&self) -> StatusReport;

    /// Returns the counters since the start.
    fn stats(&self) -> StatsReport;
}

/// Answers requests until the future is dropped, which closes all connections and the listener.
pub(crate) async fn serve(listener: StreamListener, observed: Arc<dyn Observed>) {
    accept::accept_all(listener, observed).await;
}

/// The transport of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}
