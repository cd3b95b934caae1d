//! Connections to a Redis server.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use super::target::{RedisAddress, RedisLogin};
use crate::storage::remote::start::ConnectError;
use crate::storage::remote::tls::{self, Tls};

impl RedisLogin {
    /// Connects and logs in, without a time limit.
    pub(super) async fn connect(&self, address: &RedisAddress) -> Result<RedisConnection, ConnectError> {
        let error = match self.open(address, self.password.as_deref()).await? {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // Like the Python server, ignores a password that the server does not need.
        let first = Self { database: 0, ..self.clone() };
        if error.kind() == ErrorKind::AuthenticationFailed
            && self.user.is_none()
            && let Ok(Ok(mut connection)) = first.open(address, None).await
            && let Ok(reply) = connection.send_packed_command(&redis::cmd("PING")).await
            && needs_no_password(&reply)
        {
            Self::warn_of_unused_password(address);
            return self.open(address, None).await?.map_err(|error| failure_of(&error));
        }
        Err(failure_of(&error))
    }

    /// Logs, once per server, that the password of `DigestDB` is not used.
    fn warn_of_unused_password(address: &RedisAddress) {
        static LOGGED: Mutex<Vec<RedisAddress>> = Mutex::new(Vec::new());
        let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        if !logged.contains(address) {
            logged.push(address.clone());
            warn!(
                "the Redis server {address} needs no password: remove the one in DigestDB, which is not used"
            );
        }
    }

    async fn open(
        &self,
        address: &RedisAddress,
        password: Option<&str>,
    ) -> Result<Result<RedisConnection, RedisError>, ConnectError> {
        let mut settings = RedisConnectionInfo::default().set_db(self.database).set_skip_set_lib_name();
        if let Some(user) = self.user.as_deref().filter(|_| password.is_some()) {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        match (address, &self.tls) {
            (RedisAddress::Tcp(host, port), Some(tls)) => {
                let stream = connect_tls(host, *port, tls).await?;
                match checked(log_in(&settings, stream).await).await {
                    // With TLS 1.3 a server refuses the client after the handshake, and its alert may be lost.
                    Err(error) if error.kind() == ErrorKind::Io && tls::in_words(&error).is_none() => {
                        Err(ConnectError::temporary(format!(
                            "{error}, right after the TLS handshake: if the server requires client certificates, turn \
                             that off there (tls-auth-clients no)"
                        )))
                    }
                    spoken => Ok(spoken),
                }
            }
            (RedisAddress::Tcp(host, port), None) => match connect_tcp(host, *port).await {
                Ok(stream) => Ok(log_in(&settings, stream).await),
                Err(error) => Ok(Err(error.into())),
            },
            (RedisAddress::Unix(path), _) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(log_in(&settings, stream).await),
                Err(error) => Ok(Err(error.into())),
            },
        }
    }
}

/// Time limit of the TLS handshake. A server without TLS does not answer it.
const HANDSHAKE: Duration = Duration::from_millis(600);

/// A shared connection that is closed when its last clone is dropped, even if it still waits for a reply.
#[derive(Clone)]
pub(super) struct RedisConnection {
    commands: MultiplexedConnection,
    _serving: Arc<Serving>,
}

/// The task that reads and writes for a connection, aborted on drop.
struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deref for RedisConnection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.commands
    }
}

impl DerefMut for RedisConnection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.commands
    }
}

/// Connects to the first of the host's addresses that answers.
async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its host name has no address"));
    }
    let (stream, _) = select_ok(addresses.into_iter().map(|one| Box::pin(TcpStream::connect(one)))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects with TLS, and verifies the server unless the URL has `verify=no`.
async fn connect_tls(host: &str, port: u16, tls: &Tls) -> Result<TlsStream<TcpStream>, ConnectError> {
    let (name, client) = (tls::server_name(host)?, tls.client()?);
    let stream = connect_tcp(host, port).await.map_err(|error| ConnectError::temporary(error.to_string()))?;
    let shaking_hands = TlsConnector::from(client).connect(name, stream);
    match timeout(HANDSHAKE, shaking_hands).await {
        Ok(done) => done.map_err(|error| match tls::in_words(&error) {
            Some(why) => ConnectError::permanent(why),
            None => ConnectError::temporary(error.to_string()),
        }),
        Err(_) => Err(ConnectError::temporary(
            "it accepts connections, but does not answer in TLS: check that TLS is enabled there on this port",
        )),
    }
}

/// Checks a connection with `PING`.
async fn checked(connection: Result<RedisConnection, RedisError>) -> Result<RedisConnection, RedisError> {
    let mut connection = connection?;
    connection.send_packed_command(&redis::cmd("PING")).await?;
    Ok(connection)
}

/// Logs in over a stream, and starts the task that serves the connection.
async fn log_in(
    settings: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<RedisConnection, RedisError> {
    // Callers limit the time of whole operations.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let (connection, serving) = MultiplexedConnection::new_with_config(settings, stream, config).await?;
    Ok(RedisConnection { commands: connection, _serving: Arc::new(Serving(tokio::spawn(serving))) })
}

fn needs_no_password(reply: &Value) -> bool {
    match reply {
        Value::SimpleString(pong) => pong == "PONG",
        Value::ServerError(error) => error.code() == "NOPERM",
        _ => false,
    }
}

/// Converts an error of the library, and decides whether it is permanent.
pub(super) fn failure_of(error: &RedisError) -> ConnectError {
    // With TLS 1.3 a server refuses the client after the handshake.
    if let Some(why) = tls::in_words(error) {
        return ConnectError::permanent(why);
    }
    let is_permanent = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        _ if error.to_string().contains("max number of clients") => false,
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "ERR")),
    };
    ConnectError { why: in_words(error), is_permanent }
}

/// Returns the error's text, or a clearer one for common errors.
pub(super) fn in_words(error: &RedisError) -> String {
    let said = error.to_string();
    if error.kind() == ErrorKind::AuthenticationFailed {
        "it refuses the user or the password of DigestDB".to_owned()
    } else if error.code() == Some("NOAUTH") {
        "it needs a password, or a different one from that in DigestDB (NOAUTH)".to_owned()
    } else if let Some((_, why)) = said.split_once("refused to switch database - ") {
        let why = why.split_once(": ").map_or(why, |(_, why)| why);
        format!("it refuses the database of DigestDB: {why}")
    } else {
        said
    }
}

/// Returns the error in a reply, if it is one.
pub(super) fn refusal(reply: &Value) -> Option<ConnectError> {
    match reply {
        Value::ServerError(error) => Some(failure_of(&RedisError::from(error.clone()))),
        _ => None,
    }
}
