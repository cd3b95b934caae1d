//! Where a table is, as `DigestDB` names it, and how a connection to its server is made.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use futures_util::FutureExt as _;
use mysql_async::prelude::Queryable;

use mysql_async::{Conn, Error, IoError, OptsBuilder, SslOpts, TlsError};

use crate::storage::remote::dsn::{self, DsnError, Host, Url};
use crate::storage::remote::start::Failure;
use crate::storage::remote::tls::{self, Authorities, Tls};

const PORT: u16 = 3306;
/// What the library of the established server looks at for another port and another socket.
const PORT_VARIABLE: &str = "MYSQL_TCP_PORT";
const SOCKET_VARIABLE: &str = "MYSQL_UNIX_PORT";
/// Where a server on the same machine listens, on Debian, on Red Hat and as built from source.
const SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];
/// What a URL may ask for behind its `?`.
const PARAMETERS: &str = "ca, socket, tls and verify";
/// Without this a server that is told so keeps what was counted to the connection that counted it.
const COMMIT: &str = "autocommit = 1";
/// What is set besides, where the server knows it: a statement that nobody waits for any more is to end
/// soon, and no mode is to change what statements mean.
const HABITS: [&str; 3] = ["innodb_lock_wait_timeout = 1", "lock_wait_timeout = 1", "sql_mode = ''"];

/// Where the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    server: Server,
    user: String,
    password: String,
    database: String,
    /// The database that has the table, where it is not the one of the connection.
    other_database: Option<String>,
    table: String,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Server {
    Tcp(String, u16),
    Socket(PathBuf),
    /// `localhost`: by one of the usual sockets, or by TCP.
    Local,
}

impl Place {
    /// Reads `host,user,password,database,table` or a URL.
    pub(super) fn parse(dsn: &str) -> Result<Self, DsnError> {
        match dsn::scheme(dsn) {
            Some("mysql" | "mariadb") => Self::parse_url(dsn),
            Some(_) => Err(DsnError::new("the URL must begin with mysql://")),
            None => Self::parse_parts(dsn),
        }
    }

    fn parse_parts(dsn: &str) -> Result<Self, DsnError> {
        let parts: Vec<&str> = dsn.split(',').collect();
        let [host, user, password, database, table] = parts.as_slice() else {
            return Err(DsnError::new(
                "expected the five parts host,user,password,database,table, or a URL such as \
                 mysql://user:password@host/database/table, in which a comma of the password is written %2C",
            ));
        };
        let server = match host.trim() {
            "" | "localhost" => Server::Local,
            path if path.starts_with('/') => Server::Socket(path.into()),
            host => Server::of(Host::parse(host)?),
        };
        Self::new(server, user.trim(), password, database.trim(), table.trim(), None)
    }

    fn parse_url(dsn: &str) -> Result<Self, DsnError> {
        let mut url = Url::parse(dsn)?;
        let (tls, verify, authorities) = (url.take_truth("tls")?, url.take_truth("verify")?, url.take("ca"));
        let socket = url.take("socket");
        url.finish(PARAMETERS)?;
        if tls == Some(false) && (verify.is_some() || authorities.is_some()) {
            return Err(DsnError::new("ca and verify are for TLS, and tls is no"));
        }
        let tls = (tls == Some(true) || verify.is_some() || authorities.is_some())
            .then(|| Tls { authorities: authorities.map(PathBuf::from), verify: verify.unwrap_or(true) });
        let server = match (socket, url.hosts.as_slice()) {
            (Some(path), _) if path.starts_with('/') => Server::Socket(path.into()),
            (Some(_), _) => return Err(DsnError::new("the socket must be an absolute path")),
            (None, []) => Server::Local,
            (None, [host]) if host.name == "localhost" && host.port.is_none() && tls.is_none() => {
                Server::Local
            }
            (None, [host]) => Server::of(host.clone()),
            (None, _) => return Err(DsnError::new("the URL must name one host")),
        };
        let [database, table] = url.path.as_slice() else {
            return Err(DsnError::new("the URL's path must be /database/table"));
        };
        Self::new(
            server,
            url.user.as_deref().unwrap_or_default(),
            url.password.as_deref().unwrap_or_default(),
            database,
            table,
            tls,
        )
    }

    fn new(
        server: Server,
        user: &str,
        password: &str,
        database: &str,
        table: &str,
        tls: Option<Tls>,
    ) -> Result<Self, DsnError> {
        let mut names = identifiers(table).ok_or_else(|| DsnError::new("the table's name is malformed"))?;
        let table = names.pop().filter(|name| !name.is_empty());
        let table = table.ok_or_else(|| DsnError::new("the last part, the table, is empty"))?;
        let other_database = names.pop();
        if !names.is_empty() || other_database.as_ref().is_some_and(String::is_empty) {
            return Err(DsnError::new("the table's name is malformed"));
        }
        if database.is_empty() {
            return Err(DsnError::new("the database's name is empty"));
        }
        Ok(Self {
            server,
            user: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
            other_database,
            table,
            tls,
        })
    }

    /// The place for people, without a password.
    pub(super) fn describe(&self) -> String {
        let server = match &self.server {
            Server::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Server::Tcp(host, port) => format!("{host}:{port}"),
            Server::Socket(path) => path.display().to_string(),
            Server::Local => "localhost".to_owned(),
        };
        let (database, table) = self.names();
        format!("{server}, table {database}.{table}")
    }

    /// The table as statements name it.
    pub(super) fn quoted_table(&self) -> String {
        let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
        let (database, table) = self.names();
        format!("{}.{}", quote(database), quote(table))
    }

    /// The names of the table's database and of the table.
    pub(super) fn names(&self) -> (&str, &str) {
        (self.other_database.as_ref().unwrap_or(&self.database), &self.table)
    }

    /// A new connection. Takes as long as it takes.
    pub(super) async fn connect(&self) -> Result<Conn, ConnectError> {
        let servers: Vec<Server> = match &self.server {
            Server::Local => {
                let named = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
                let usual = SOCKETS.iter().map(PathBuf::from);
                let there = named.into_iter().chain(usual).filter(|path| path.exists());
                there
                    .map(Server::Socket)
                    .chain([Server::Tcp("localhost".to_owned(), default_port())])
                    .collect()
            }
            server => vec![server.clone()],
        };
        let mut last = Failure::passing("there is no server to try");
        for server in servers {
            // The library panics over a server's key that is none, and over a password too long for it.
            let login = AssertUnwindSafe(self.log_in(&server)).catch_unwind().await;
            let login = login.map_err(|_| {
                Failure::fatal(
                    "the password cannot be encrypted for it: its key is malformed, or the password is longer than \
                     about 200 bytes; with TLS none is needed",
                )
            })?;
            match login? {
                Ok(mut connection) => {
                    set_up(&mut connection).await.map_err(|error| failure_of(&error))?;
                    return Ok(connection);
                }
                Err(error) if is_full(&error) => return Err(ConnectError::NoRoom(error.to_string())),
                Err(error) => last = failure_of(&error),
            }
            if last.is_final {
                break;
            }
        }
        Err(last.into())
    }

    async fn log_in(&self, server: &Server) -> Result<Result<Conn, Error>, Failure> {
        let Some(tls) = &self.tls else { return Ok(Conn::new(self.options(server)).await) };
        let authorities = tls.authorities()?;
        if let Server::Tcp(host, _) = server
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

    fn options(&self, server: &Server) -> OptsBuilder {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let mut options = OptsBuilder::default()
            .user(some(&self.user))
            .pass(some(&self.password))
            .db_name(Some(&self.database))
            // The server's own idea of its socket may be another machine's.
            .prefer_socket(false);
        match server {
            Server::Tcp(host, port) => options = options.ip_or_hostname(host).tcp_port(*port),
            Server::Socket(path) => options = options.socket(path.to_str()),
            Server::Local => {}
        }
        options
    }
}

/// Why there is no new connection.
pub(super) enum ConnectError {
    /// There is room for those that there are alone, on the server or in this process.
    NoRoom(String),
    Other(Failure),
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NoRoom(why) => Self::passing(why),
            ConnectError::Other(failure) => failure,
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

impl Server {
    fn of(host: Host) -> Self {
        Self::Tcp(host.name, host.port.unwrap_or_else(default_port))
    }
}

fn default_port() -> u16 {
    std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse().ok()).unwrap_or(PORT)
}

/// Accepts the certificates that these authorities have issued for the server's host.
fn certificates_of(authorities: &Authorities) -> SslOpts {
    let roots = authorities.certificates().iter().map(|certificate| certificate.to_vec().into()).collect();
    SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true)
}

/// Accepts any certificate. The library insists on some authorities, of which it makes no use then.
fn any_certificate() -> SslOpts {
    SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true)
}

/// Why there is no connection, as the library says.
pub(super) fn failure_of(error: &Error) -> Failure {
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
    let (why, is_final) = match error {
        Error::Server(error) => (error.to_string(), REFUSALS.contains(&error.code)),
        Error::Driver(error) => {
            use mysql_async::DriverError::{
                CleartextPluginDisabled, NoClientSslFlagFromServer, UnknownAuthPlugin,
            };
            let is_final = matches!(
                error,
                CleartextPluginDisabled | NoClientSslFlagFromServer | UnknownAuthPlugin { .. }
            );
            (error.to_string(), is_final)
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
    Failure { why, is_final }
}

/// The names in `name` or `name.name`, each of which may be quoted as in SQL.
fn identifiers(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('`') {
            let mut name = String::new();
            rest = quoted;
            loop {
                let (part, behind) = rest.split_once('`')?;
                name.push_str(part);
                match behind.strip_prefix('`') {
                    Some(behind) => {
                        name.push('`');
                        rest = behind;
                    }
                    None => {
                        rest = behind;
                        break;
                    }
                }
            }
            names.push(name);
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            names.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Some(names),
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dsn: &str) -> Place {
        Place::parse(dsn).unwrap()
    }

    #[test]
    fn the_five_parts_are_read() {
        assert_eq!(
            place("localhost,user,password,pyzor,digests").describe(),
            "localhost, table pyzor.digests"
        );
        assert_eq!(place("db:3307,u,p,a,b").server, Server::Tcp("db".to_owned(), 3307));
        assert_eq!(place("[::1]:3307,u,p,a,b").describe(), "[::1]:3307, table a.b");
        assert_eq!(place("/run/x.sock,u,,a,b").server, Server::Socket("/run/x.sock".into()));
        for wrong in ["pyzord.db", "h,u,p,a", "h,u,p,a,b,c", "h,u,p,,b", "h,u,p,a,", "h:x,u,p,a,b"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_url_is_read() {
        let url = place("mysql://me%40x:p%2Cw@h:3307/a%2Db/t?ca=/x.pem&verify=no");
        assert_eq!((url.user.as_str(), url.password.as_str()), ("me@x", "p,w"));
        assert_eq!(url.server, Server::Tcp("h".to_owned(), 3307));
        assert_eq!(url.quoted_table(), "`a-b`.`t`");
        assert_eq!(url.tls, Some(Tls { authorities: Some("/x.pem".into()), verify: false }));
        assert_eq!(place("mysql://u@localhost/a/b").server, Server::Local);
        assert_eq!(place("mysql://u@/a/b?socket=/s").server, Server::Socket("/s".into()));
        for wrong in ["mysql://h/a", "mysql://h/a/b?x=1", "pg://h/a/b", "mysql://h/a/b?tls=no&verify=yes"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn table_names_are_quoted() {
        for (table, quoted) in [
            ("digests", "`a`.`digests`"),
            ("my-table", "`a`.`my-table`"),
            ("other.digests", "`other`.`digests`"),
            ("`my.table`", "`a`.`my.table`"),
            ("`o``x`.`t`", "`o``x`.`t`"),
            ("x`y", "`a`.`x``y`"),
        ] {
            assert_eq!(place(&format!("h,u,p,a,{table}")).quoted_table(), quoted);
        }
        for wrong in ["a.b.c", "`a", "`a`b", ".b", "a."] {
            assert!(Place::parse(&format!("h,u,p,a,{wrong}")).is_err(), "{wrong}");
        }
    }
}
