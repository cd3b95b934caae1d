//! The server's side of the control socket.
//!
//! Everything that a peer can use is bounded: connections, the length of a line, and time. The loop that serves
//! requests shares only counters with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::reply::ControlReply;
use super::request::{ControlRequest, MAX_REQUEST, RequestError};
use super::socket;
use crate::logging::allowance::Allowance;
use crate::storage::BoxFuture;

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 8;
/// The longest time for a peer to send its next request, and to take a reply.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// The time after which an idle connection makes room for a new one.
const YIELDING: Duration = Duration::from_secs(1);
/// The pause after each accepted connection, and after each request of a connection. They bound the share of the thread
/// that peers can take from the requests of clients.
const ACCEPT_SPACING: Duration = Duration::from_millis(2);
const REQUEST_SPACING: Duration = Duration::from_millis(20);
/// The pause after a failure to accept, most likely for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The part of the server that answers the requests of operators.
pub(crate) trait Operated: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: ControlRequest) -> BoxFuture<'_, ControlReply>;
}

/// Accepts connections and answers their requests, until the task is aborted.
pub(crate) async fn serve(listener: UnixListener, server: Arc<dyn Operated>) {
    let mut connections = ControlConnections::default();
    let mut complaints = Allowance::per_minute(1);
    loop {
        let pause = match listener.accept().await {
            Ok((connection, _)) => {
                if !socket::is_permitted(&connection) {
                    refuse(
                        &connection,
                        "permission denied: only root and the user of the server may use this socket",
                    );
                } else if connections.make_room() {
                    connections.add(connection, &server);
                } else {
                    refuse(&connection, "too many connections: try again later");
                }
                ACCEPT_SPACING
            }
            Err(error) => {
                if complaints.take(Instant::now()).is_some() {
                    warn!("cannot accept a connection to the control socket: {error}");
                }
                ACCEPT_PAUSE
            }
        };
        sleep(pause).await;
    }
}

/// Sends the reason for a refusal without waiting, and closes the connection.
fn refuse(connection: &UnixStream, why: &str) {
    // A new connection has space for a short line, unless the peer has closed it already.
    let _ = connection.try_write(&line(&ControlReply::Unavailable(why.to_owned())));
}

/// The open connections.
#[derive(Default)]
struct ControlConnections {
    tasks: JoinSet<()>,
    connections: Vec<(AbortHandle, Arc<Activity>)>,
}

impl ControlConnections {
    /// Returns whether another connection may be opened. Closes the one that has been idle for the longest time if there
    /// are too many: peers that keep connections open must not keep operators away.
    fn make_room(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.connections.retain(|(task, _)| !task.is_finished());
        if self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let idle = self
            .connections
            .iter()
            .enumerate()
            .filter_map(|(at, (_, activity))| Some((at, activity.idle()?)));
        match idle.max_by_key(|(_, idle)| *idle) {
            Some((at, idle)) if idle >= YIELDING => {
                self.connections.swap_remove(at).0.abort();
                true
            }
            _ => false,
        }
    }

    fn add(&mut self, connection: UnixStream, server: &Arc<dyn Operated>) {
        let activity = Arc::new(Activity::default());
        let task = self.tasks.spawn(converse(connection, Arc::clone(server), Arc::clone(&activity)));
        self.connections.push((task, activity));
    }
}

/// Tells since when a connection waits for a request; none while a request is being answered.
struct Activity(Mutex<Option<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }
}

impl Activity {
    fn set(&self, idle_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = idle_since;
    }

    fn idle(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

/// Answers one request after the other, until the peer closes the connection, sends a line that is not a request, or
/// is idle for too long.
async fn converse(mut connection: UnixStream, server: Arc<dyn Operated>, activity: Arc<Activity>) {
    let mut received = Vec::with_capacity(MAX_REQUEST);
    loop {
        let request = match timeout(IDLE_LIMIT, next_line(&mut connection, &mut received)).await {
            Ok(Ok(Some(text))) => ControlRequest::parse(&text),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) | Err(_) => return,
        };
        activity.set(None);
        let is_valid = request.is_ok();
        let reply = match request {
            Ok(request) => server.answer(request).await,
            Err(error) => ControlReply::Error(error.to_string()),
        };
        activity.set(Some(Instant::now()));
        match timeout(IDLE_LIMIT, connection.write_all(&line(&reply))).await {
            Ok(Ok(())) if is_valid => {}
            _ => return,
        }
        sleep(REQUEST_SPACING).await;
    }
}

/// Returns the next line without its end; none at the end of the connection. The bytes after it stay in `received`.
///
/// # Errors
///
/// The line is too long.
async fn next_line(
    connection: &mut UnixStream,
    received: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, RequestError> {
    loop {
        if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let mut text: Vec<u8> = received.drain(..=end).collect();
            text.pop();
            return Ok(Some(text));
        }
        if received.len() >= MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let mut buffer = [0; MAX_REQUEST];
        match connection.read(&mut buffer[..MAX_REQUEST - received.len()]).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(length) => received.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Returns a reply as a line.
fn line(reply: &ControlReply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply)
        .unwrap_or_else(|error| format!("{{\"error\":\"cannot encode the reply: {error}\"}}").into_bytes());
    line.push(b'\n');
    line
}
