//! Connections to a server: who logs in, how the server proves its identity, and what is set first.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use futures_util::FutureExt as _;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, IoError, OptsBuilder, SslOpts, TlsError};

use super::target::{MySqlServer, MySqlTarget, default_port};
use crate::storage::remote::start::ConnectError;
use crate::storage::remote::tls::{self, TrustedCertificates};

/// What the library of the established server looks at for another socket.
const SOCKET_VARIABLE: &str = "MYSQL_UNIX_PORT";
/// Where a server on the same machine listens, on Debian, on Red Hat and as built from source.
const SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];
/// Without this a server that is told so keeps what was counted to the connection that counted it.
const COMMIT: &str = "autocommit = 1";
/// What is set besides, where the server knows it: a statement that nobody waits for any more is to end
/// soon, and no mode is to change what statements mean.
const HABITS: [&str; 3] = ["innodb_lock_wait_timeout = 1", "lock_wait_timeout = 1", "sql_mode = ''"];

impl MySqlTarget {
    /// A new connection. Takes as long as it takes.
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
        let mut last = ConnectError::temporary("there is no server to try");
        for server in servers {
            // The library panics over a server's key that is none, and over a password too long for it.
            let login = AssertUnwindSafe(self.log_in(&server)).catch_unwind().await;
            let login = login.map_err(|_| {
                ConnectError::permanent(
                    "the password cannot be encrypted for it: its key is malformed, or the password is longer than \
                     about 200 bytes; with TLS none is needed",
                )
            })?;
            match login? {
                Ok(mut connection) => {
                    set_up(&mut connection).await.map_err(|error| failure_of(&error))?;
                    return Ok(connection);
                }
                Err(error) if is_full(&error) => return Err(MySqlConnectError::NoRoom(error.to_string())),
                Err(error) => last = failure_of(&error),
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
                // The server may have a certificate that an authority of the same file has issued.
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
            // The server's own idea of its socket may be another machine's.
            .prefer_socket(false);
        match server {
            MySqlServer::Tcp(host, port) => options = options.ip_or_hostname(host).tcp_port(*port),
            MySqlServer::Socket(path) => options = options.socket(path.to_str()),
            MySqlServer::Local => {}
        }
        options
    }
}

/// Why there is no new connection.
pub(super) enum MySqlConnectError {
    /// There is room for those that there are alone, on the server or in this process.
    NoRoom(String),
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
            MySqlConnectError::NoRoom(why) => Self::temporary(why),
            MySqlConnectError::Other(failure) => failure,
        }
    }
}

/// Whether one connection more is too many.
fn is_full(error: &Error) -> bool {
    // Of the server, of any account, of this account.
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
    // At once, since the way may be long.
    match connection.query_drop(format!("SET SESSION {COMMIT}, {}", HABITS.join(", "))).await {
        Err(Error::Server(_)) => {}
        done => return done,
    }
    connection.query_drop(format!("SET SESSION {COMMIT}")).await?;
    for habit in HABITS {
        match connection.query_drop(format!("SET SESSION {habit}")).await {
            Ok(()) | Err(Error::Server(_)) => {}
            lost => return lost,
        }
    }
    Ok(())
}

/// Accepts the certificates that these authorities have issued for the server's host.
fn certificates_of(authorities: &TrustedCertificates) -> SslOpts {
    let roots = authorities.certificates().iter().map(|certificate| certificate.to_vec().into()).collect();
    SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true)
}

/// Accepts any certificate. The library insists on some authorities, of which it makes no use then.
fn any_certificate() -> SslOpts {
    SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true)
}

/// Why there is no connection, as the library says.
pub(super) fn failure_of(error: &Error) -> ConnectError {
    const REFUSALS: [u16; 9] = [
        1044, // no access to the database
        1045, // no access with this password
        1049, // no such database
        1130, // no access from this machine
        1142, // no right to the table
        1143, // no right to a column
        1251, // no common way to authenticate
        1698, // no access
        3159, // no access without TLS
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
        // Before there is a connection.
        Error::Io(IoError::Tls(TlsError::InvalidDnsName(_))) => return tls::no_name(),
        Error::Io(IoError::Tls(TlsError::Tls(error))) => return tls::unusable(error),
        error => (error.to_string(), false),
    };
    ConnectError { why, is_permanent }
}
