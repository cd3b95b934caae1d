//! The server's side of the control socket.
//!
//! Everything that a peer can use is bounded: connections, the length of a line, and time. The loop that serves
//! requests shares only counters with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
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
/// The pause after a failure to accept, most likely for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The part of the server that answers the requests of operators.
pub(crate) trait Operated: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: ControlRequest) -> BoxFuture<'_, ControlReply>;
}

/// Accepts connections and answers their requests, until the task is aborted.
pub(crate) async fn serve(listener: UnixListener, server: Arc<dyn Operated>) {
    let mut connections = JoinSet::new();
    let mut complaints = Allowance::per_minute(1);
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => match refusal(&connection, connections.len()) {
                    Some(why) => refuse(&connection, why),
                    None => {
                        connections.spawn(converse(connection, Arc::clone(&server)));
                    }
                },
                Err(error) => {
                    if complaints.take(Instant::now()).is_some() {
                        warn!("cannot accept a connection to the control socket: {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Returns the reason why a connection is refused; none if it is accepted.
fn refusal(connection: &UnixStream, connections: usize) -> Option<&'static str> {
    if !socket::is_permitted(connection) {
        return Some("permission denied: only root and the user of the server may use this socket");
    }
    (connections >= MAX_CONNECTIONS).then_some("too many connections: try again later")
}

/// Sends an error without waiting, and closes the connection.
fn refuse(connection: &UnixStream, why: &str) {
    // A new connection has space for a short line, unless the peer has closed it already.
    let _ = connection.try_write(&line(&ControlReply::Error(why.to_owned())));
}

/// Answers one request after the other, until the peer closes the connection, sends a line that is not a request, or
/// is idle for too long.
async fn converse(mut connection: UnixStream, server: Arc<dyn Operated>) {
    let mut received = Vec::with_capacity(MAX_REQUEST);
    loop {
        let request = match timeout(IDLE_LIMIT, next_line(&mut connection, &mut received)).await {
            Ok(Ok(Some(text))) => ControlRequest::parse(&text),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) | Err(_) => return,
        };
        let is_valid = request.is_ok();
        let reply = match request {
            Ok(request) => server.answer(request).await,
            Err(error) => ControlReply::Error(error.to_string()),
        };
        match timeout(IDLE_LIMIT, connection.write_all(&line(&reply))).await {
            Ok(Ok(())) if is_valid => {}
            _ => return,
        }
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
