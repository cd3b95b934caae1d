//! New connections to a server: login, TLS and session settings.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use futures_util::FutureExt as _;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, IoError, OptsBuilder, SslOpts, TlsError};

use super::target::{MySqlServer, MySqlTarget, default_port};
use crate::storage::remote::start::ConnectError;
use crate::storage::remote::tls::{self, TrustedCertificates};

/// The environment variable with the path of the server's socket. MySQL's client library, which the Python server uses,
/// reads it, too.
const SOCKET_VARIABLE: &str = "MYSQL_UNIX_PORT";
/// The usual paths of a local server's socket: Debian, Red Hat, built from source.
const SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];
/// Session setting that is required: a server configured with `autocommit = 0` would never commit the counts.
const COMMIT: &str = "autocommit = 1";
/// Session settings for servers that support them: statements stop waiting for locks soon after their batch has timed
/// out, and no SQL mode changes the meaning of statements.
const OPTIONAL_SETTINGS: [&str; 3] =
    ["innodb_lock_wait_timeout = 1", "lock_wait_timeout = 1", "sql_mode = ''"];

impl MySqlTarget {
    /// Opens a new connection. Has no time limit of its own.
    pub(super) async fn connect(&self) -> Result<Conn, MySqlConnectError> {
        let servers: Vec<MySqlServer> = match &self.server {
            MySqlServer::Local => {
                let named = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
                let usual = SOCKETS.iter().map(PathBuf::from);
                let there = named.into_iter().chain(usual).filter(|path| path.exists());
                there
                    .map(MySqlServer::Socket)
                    .chain([MySqlServer::Tcp("localhost".to_owned(), default_port())])
                    .collect()
            }
            server => vec![server.clone()],
        };
        let mut last = ConnectError::temporary("no server address to try");
        for server in servers {
            // mysql_async panics if the server's RSA key is malformed or too short for the password.
            let login = AssertUnwindSafe(self.log_in(&server)).catch_unwind().await;
            let login = login.map_err(|_| {
                ConnectError::permanent(
                    "cannot encrypt the password: the server's RSA key is malformed, or the password is longer than \
                     about 200 bytes: use TLS, which needs no such key",
                )
            })?;
            match login? {
                Ok(mut connection) => {
                    set_up(&mut connection).await.map_err(|error| connect_error(&error))?;
                    return Ok(connection);
                }
                Err(error) if is_limit(&error) => return Err(MySqlConnectError::Limit(error.to_string())),
                Err(error) => last = connect_error(&error),
            }
            if last.is_permanent {
                break;
            }
        }
        Err(last.into())
    }

    async fn log_in(&self, server: &MySqlServer) -> Result<Result<Conn, Error>, ConnectError> {
        let Some(tls) = &self.tls else { return Ok(Conn::new(self.options(server)).await) };
        let authorities = tls.authorities()?;
        if let MySqlServer::Tcp(host, _) = server
            && tls.verify
        {
            let keys = authorities.keys_of(host);
            if !keys.is_empty() {
                let options = self.options(server).ssl_opts(any_certificate());
                let login = tls::trusting(Some(keys), Conn::new(options)).await?;
                // A certificate that is not in the file itself may still be issued by an authority in it.
                if !matches!(&login, Err(Error::Io(IoError::Io(error))) if tls::is_another_key(error)) {
                    return Ok(login);
                }
            }
        }
        let encrypted = if tls.verify { certificates_of(&authorities) } else { any_certificate() };
        tls::trusting(None, Conn::new(self.options(server).ssl_opts(encrypted))).await
    }

    fn options(&self, server: &MySqlServer) -> OptsBuilder {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let mut options = OptsBuilder::default()
            .user(some(&self.user))
            .pass(some(&self.password))
            .db_name(Some(&self.database))
            // The server reports a socket path that may belong to another machine.
            .prefer_socket(false);
        match server {
            MySqlServer::Tcp(host, port) => options = options.ip_or_hostname(host).tcp_port(*port),
            MySqlServer::Socket(path) => options = options.socket(path.to_str()),
            MySqlServer::Local => {}
        }
        options
    }
}

/// Reason why a new connection could not be opened.
pub(super) enum MySqlConnectError {
    /// The limit of connections on the server, or of file descriptors in this process, is reached.
    Limit(String),
    Other(ConnectError),
}

impl From<ConnectError> for MySqlConnectError {
    fn from(failure: ConnectError) -> Self {
        Self::Other(failure)
    }
}

impl From<MySqlConnectError> for ConnectError {
    fn from(error: MySqlConnectError) -> Self {
        match error {
            MySqlConnectError::Limit(why) => Self::temporary(why),
            MySqlConnectError::Other(failure) => failure,
        }
    }
}

/// Whether a limit keeps another connection from being opened.
fn is_limit(error: &Error) -> bool {
    // The limits of the server, of every account, and of this account.
    const TOO_MANY_CONNECTIONS: [u16; 3] = [1040, 1203, 1226];
    match error {
        Error::Server(error) => TOO_MANY_CONNECTIONS.contains(&error.code),
        Error::Io(IoError::Io(error)) => {
            matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
        }
        _ => false,
    }
}

async fn set_up(connection: &mut Conn) -> Result<(), Error> {
    // One statement instead of four, because each one takes a round trip.
    match connection.query_drop(format!("SET SESSION {COMMIT}, {}", OPTIONAL_SETTINGS.join(", "))).await {
        Err(Error::Server(_)) => {}
        done => return done,
    }
    connection.query_drop(format!("SET SESSION {COMMIT}")).await?;
    for setting in OPTIONAL_SETTINGS {
        match connection.query_drop(format!("SET SESSION {setting}")).await {
            Ok(()) | Err(Error::Server(_)) => {}
            lost => return lost,
        }
    }
    Ok(())
}

/// TLS options that accept certificates issued by these authorities for the server's host.
fn certificates_of(authorities: &TrustedCertificates) -> SslOpts {
    let roots = authorities.certificates().iter().map(|certificate| certificate.to_vec().into()).collect();
    SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true)
}

/// TLS options that accept any certificate.
fn any_certificate() -> SslOpts {
    SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true)
}

/// Converts an error of mysql_async, and decides whether retrying can help.
pub(super) fn connect_error(error: &Error) -> ConnectError {
    const REFUSALS: [u16; 9] = [
        1044, // access to the database denied
        1045, // access denied (wrong user or password)
        1049, // unknown database
        1130, // this host is not allowed to connect
        1142, // access to the table denied
        1143, // access to a column denied
        1251, // no common authentication method
        1698, // access denied (other authentication method)
        3159, // the server requires TLS
    ];
    let (why, is_permanent) = match error {
        Error::Server(error) => (error.to_string(), REFUSALS.contains(&error.code)),
        Error::Driver(error) => {
            use mysql_async::DriverError::{
                CleartextPluginDisabled, NoClientSslFlagFromServer, UnknownAuthPlugin,
            };
            let is_permanent = matches!(
                error,
                CleartextPluginDisabled | NoClientSslFlagFromServer | UnknownAuthPlugin { .. }
            );
            (error.to_string(), is_permanent)
        }
        Error::Io(IoError::Io(error)) => match tls::in_words(error) {
            Some(why) => (why, true),
            None => (error.to_string(), false),
        },
        Error::Io(IoError::Tls(TlsError::InvalidDnsName(_))) => return tls::no_name(),
        Error::Io(IoError::Tls(TlsError::Tls(error))) => return tls::unusable(error),
        error => (error.to_string(), false),
    };
    ConnectError { why, is_permanent }
}
