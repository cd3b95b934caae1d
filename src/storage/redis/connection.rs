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
    /// A new connection to this server. Takes as long as it takes.
    pub(super) async fn connect(&self, address: &RedisAddress) -> Result<RedisConnection, ConnectError> {
        let error = match self.open(address, self.password.as_deref()).await? {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // As with the established server's library, a password that the server does not need is no failure.
        let first = Self { database: 0, ..self.clone() };
        if error.kind() == ErrorKind::AuthenticationFailed
            && self.user.is_none()
            && let Ok(Ok(mut connection)) = first.open(address, None).await
            && let Ok(reply) = connection.send_packed_command(&redis::cmd("PING")).await
            && needs_no_password(&reply)
        {
            Self::tell_of_password(address);
            return self.open(address, None).await?.map_err(|error| failure_of(&error));
        }
        Err(failure_of(&error))
    }

    /// Warns once that a server needs no password.
    fn tell_of_password(address: &RedisAddress) {
        static TOLD: Mutex<Vec<RedisAddress>> = Mutex::new(Vec::new());
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(address) {
            told.push(address.clone());
            warn!("the Redis server {address} needs no password, and the one of DigestDB is not used");
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
                let stream = encrypted(host, *port, tls).await?;
                match answered(speak(&settings, stream).await).await {
                    // A client of TLS 1.3 learns only now that it is refused, and the reason may be lost.
                    Err(error) if error.kind() == ErrorKind::Io && tls::in_words(&error).is_none() => {
                        Err(ConnectError::temporary(format!(
                            "{error}, as soon as TLS was agreed: the server may want a certificate of its clients, and \
                             must not (tls-auth-clients no)"
                        )))
                    }
                    spoken => Ok(spoken),
                }
            }
            (RedisAddress::Tcp(host, port), None) => match tcp(host, *port).await {
                Ok(stream) => Ok(speak(&settings, stream).await),
                Err(error) => Ok(Err(error.into())),
            },
            (RedisAddress::Unix(path), _) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(speak(&settings, stream).await),
                Err(error) => Ok(Err(error.into())),
            },
        }
    }
}

/// How long a server may take to agree on TLS. A server without TLS waits for the end of a line.
const HANDSHAKE: Duration = Duration::from_millis(600);

/// A connection that ends with its last user, also while it still waits for a reply.
#[derive(Clone)]
pub(super) struct RedisConnection {
    commands: MultiplexedConnection,
    _serving: Arc<Serving>,
}

/// The task that reads and writes for a connection.
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

/// A connection to the first of the host's addresses that answers.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its host has no address"));
    }
    let (stream, _) = select_ok(addresses.into_iter().map(|one| Box::pin(TcpStream::connect(one)))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection whose server has proved its identity as the URL asks.
async fn encrypted(host: &str, port: u16, tls: &Tls) -> Result<TlsStream<TcpStream>, ConnectError> {
    let (name, client) = (tls::server_name(host)?, tls.client()?);
    let stream = tcp(host, port).await.map_err(|error| ConnectError::temporary(error.to_string()))?;
    let shaking_hands = TlsConnector::from(client).connect(name, stream);
    match timeout(HANDSHAKE, shaking_hands).await {
        Ok(done) => done.map_err(|error| match tls::in_words(&error) {
            Some(why) => ConnectError::permanent(why),
            None => ConnectError::temporary(error.to_string()),
        }),
        Err(_) => Err(ConnectError::temporary(
            "it accepts connections, and does not answer in TLS: see that TLS is on there, at this port",
        )),
    }
}

/// A connection through which something has come back.
async fn answered(connection: Result<RedisConnection, RedisError>) -> Result<RedisConnection, RedisError> {
    let mut connection = connection?;
    connection.send_packed_command(&redis::cmd("PING")).await?;
    Ok(connection)
}

/// Logs in.
async fn speak(
    settings: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<RedisConnection, RedisError> {
    // The caller has set a limit, for all of it.
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

/// Why there is no connection, as the library says.
pub(super) fn failure_of(error: &RedisError) -> ConnectError {
    // A server refuses a client of TLS 1.3 when the handshake is over.
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

/// What a server says, in words where the library has only names for it.
pub(super) fn in_words(error: &RedisError) -> String {
    let said = error.to_string();
    if error.kind() == ErrorKind::AuthenticationFailed {
        "it refuses the user or the password of DigestDB".to_owned()
    } else if error.code() == Some("NOAUTH") {
        "it needs a password, or another one than DigestDB has (NOAUTH)".to_owned()
    } else if let Some((_, why)) = said.split_once("refused to switch database - ") {
        let why = why.split_once(": ").map_or(why, |(_, why)| why);
        format!("it refuses the database of DigestDB: {why}")
    } else {
        said
    }
}

/// What a server replied when it refused.
pub(super) fn refusal(reply: &Value) -> Option<ConnectError> {
    match reply {
        Value::ServerError(error) => Some(failure_of(&RedisError::from(error.clone()))),
        _ => None,
    }
}
