//! Where a Redis is, as `DigestDB` names it, and how a connection to it is made.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsCertificates, Value,
};
use tracing::warn;

use crate::storage::dsn::{self, DsnError, Host, Tls, Url};
use crate::storage::start::Failure;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// What a URL may ask for behind its `?`.
const PARAMETERS: &str =
    "ca, db, password, user, verify and, for sentinels, sentinel_password, sentinel_user";

/// Where the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) servers: Servers,
    pub(super) access: Access,
}

/// The servers that are to be asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// The one server.
    One(Address),
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<Address>),
    /// Sentinels, which know who of a service is the master.
    Sentinels { sentinels: Vec<Address>, service: String, access: Access },
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// A name or an IP address, and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What a server wants to see before it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    user: Option<String>,
    password: Option<String>,
    database: i64,
    tls: Option<Tls>,
}

impl Place {
    /// Reads `host,port,password,database[,user]` or a URL.
    pub(super) fn parse(dsn: &str) -> Result<Self, DsnError> {
        match dsn::scheme(dsn) {
            Some(scheme) => Self::parse_url(scheme, dsn),
            None => Self::parse_parts(dsn),
        }
    }

    fn parse_parts(dsn: &str) -> Result<Self, DsnError> {
        let parts: Vec<&str> = dsn.split(',').collect();
        let [host, port, password, database, rest @ ..] = parts.as_slice() else {
            return Err(DsnError::new(
                "expected host,port,password,database, as in localhost,6379,,0, or a URL such as redis://localhost/0",
            ));
        };
        let (host, port) = (host.trim(), port.trim());
        let port = match port {
            "" => PORT,
            port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                DsnError::new("the second part, the port, must be a number from 1 to 65535")
            })?,
        };
        let address = match host {
            "" => Address::Tcp("localhost".to_owned(), port),
            path if path.contains('/') => Address::Unix(path.into()),
            host => Address::Tcp(host.to_owned(), port),
        };
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let access = Access {
            user: rest.first().and_then(|user| some(user)),
            password: some(password),
            database: number(database.trim(), "the fourth part, the database,")?,
            tls: None,
        };
        Ok(Self { servers: Servers::One(address), access }).and_then(Self::checked)
    }

    fn parse_url(scheme: &str, dsn: &str) -> Result<Self, DsnError> {
        let (secure, kind) = match scheme {
            "redis" | "valkey" => (false, "one"),
            "rediss" | "valkeys" => (true, "one"),
            "redis+unix" | "valkey+unix" | "unix" => (false, "unix"),
            "redis+cluster" => (false, "cluster"),
            "rediss+cluster" => (true, "cluster"),
            "redis+sentinel" => (false, "sentinel"),
            "rediss+sentinel" => (true, "sentinel"),
            _ => {
                return Err(DsnError::new(
                    "the URL must begin with redis://, rediss://, redis+unix://, redis+cluster://, \
                     rediss+cluster://, redis+sentinel:// or rediss+sentinel://",
                ));
            }
        };
        let mut url = Url::parse(dsn)?;
        let tls = Tls {
            authorities: url.take("ca").map(PathBuf::from),
            verify: url.take_truth("verify")?.unwrap_or(true),
        };
        if !secure && (tls.authorities.is_some() || !tls.verify) {
            return Err(DsnError::new("ca and verify are for TLS: the URL must begin with rediss"));
        }
        let tls = secure.then_some(tls);
        let given = [url.user.take(), url.password.take()];
        let [user, password] = given.map(|text| text.filter(|text| !text.is_empty()));
        let (user, password) =
            (one("user", user, url.take("user"))?, one("password", password, url.take("password"))?);
        let password = password.filter(|text| !text.is_empty());
        let database = url.take("db");
        let sentinel_access = Access {
            user: url.take("sentinel_user"),
            password: url.take("sentinel_password"),
            database: 0,
            tls: tls.clone(),
        };
        url.finish(PARAMETERS)?;
        let hosts = |port| {
            let address = |host: &Host| Address::Tcp(host.name.clone(), host.port.unwrap_or(port));
            url.hosts.iter().map(address).collect::<Vec<_>>()
        };
        let mut path = url.path.iter().map(String::as_str);
        let servers = match kind {
            "unix" if url.hosts.is_empty() && !url.path.is_empty() => {
                let path = url.path.join("/");
                let database = number(database.as_deref().unwrap_or_default(), "the database")?;
                let access = Access { user, password, database, tls: None };
                return Self { servers: Servers::One(Address::Unix(format!("/{path}").into())), access }
                    .checked();
            }
            "unix" => {
                return Err(DsnError::new("expected the socket's path, as in redis+unix:///run/redis.sock"));
            }
            "sentinel" => {
                let service = path.next().ok_or_else(|| {
                    DsnError::new("expected the service, as in redis+sentinel://host:26379/mymaster/0")
                })?;
                let (sentinels, access) = (hosts(SENTINEL_PORT), sentinel_access);
                if sentinels.is_empty() {
                    return Err(DsnError::new("the URL names no sentinel"));
                }
                Servers::Sentinels { sentinels, service: service.to_owned(), access }
            }
            "cluster" if !url.hosts.is_empty() => Servers::Cluster(hosts(PORT)),
            "cluster" => return Err(DsnError::new("the URL names no node of the cluster")),
            _ => match hosts(PORT).as_slice() {
                [] => Servers::One(Address::Tcp("localhost".to_owned(), PORT)),
                [address] => Servers::One(address.clone()),
                _ => {
                    return Err(DsnError::new(
                        "several hosts are for redis+cluster:// and redis+sentinel://",
                    ));
                }
            },
        };
        let database = one("db", path.next().map(str::to_owned), database)?.unwrap_or_default();
        let access = Access { user, password, database: number(&database, "the database")?, tls };
        if path.next().is_some() {
            return Err(DsnError::new("the URL's path has too many parts"));
        }
        Self { servers, access }.checked()
    }

    fn checked(self) -> Result<Self, DsnError> {
        if self.access.user.is_some() && self.access.password.is_none() {
            return Err(DsnError::new("a user needs a password"));
        }
        if matches!(self.servers, Servers::Cluster(_)) && self.access.database != 0 {
            return Err(DsnError::new("a cluster has only the database 0"));
        }
        Ok(self)
    }

    /// The place for people, without a password.
    pub(super) fn describe(&self) -> String {
        let list =
            |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match &self.servers {
            Servers::One(address) => format!("{address}, database {}", self.access.database),
            Servers::Cluster(seeds) => format!("the cluster of {}", list(seeds)),
            Servers::Sentinels { sentinels, service, .. } => {
                format!("{service} of the sentinels {}, database {}", list(sentinels), self.access.database)
            }
        }
    }
}

impl Place {
    /// The servers that are named, by all addresses that their names have.
    pub(super) async fn resolved(&self) -> Vec<String> {
        let (named, service) = match &self.servers {
            Servers::One(address) => (std::slice::from_ref(address), ""),
            Servers::Cluster(seeds) => (seeds.as_slice(), ""),
            Servers::Sentinels { sentinels, service, .. } => (sentinels.as_slice(), service.as_str()),
        };
        let mut resolved = Vec::new();
        for address in named {
            match address {
                // What has no address now is known by its other names.
                Address::Tcp(host, port) => resolved.extend(
                    tokio::net::lookup_host((host.as_str(), *port))
                        .await
                        .into_iter()
                        .flatten()
                        .map(|address| format!("{service} {address}")),
                ),
                Address::Unix(path) => {
                    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                    resolved.push(path.display().to_string());
                }
            }
        }
        resolved
    }
}

impl Access {
    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.database
    }
}

/// What a URL says in the usual place or as a parameter.
fn one(name: &str, usual: Option<String>, parameter: Option<String>) -> Result<Option<String>, DsnError> {
    match (usual, parameter) {
        (Some(usual), Some(parameter)) if usual != parameter => {
            Err(DsnError::new(format!("the URL has two values of {name}: remove one")))
        }
        (usual, parameter) => Ok(usual.or(parameter)),
    }
}

fn number(text: &str, what: &str) -> Result<i64, DsnError> {
    match text {
        "" => Ok(0),
        text => match text.parse() {
            Ok(number) if number >= 0 => Ok(number),
            _ => Err(DsnError::new(format!("{what} must be a number"))),
        },
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Access {
    /// A new connection to this server. Takes as long as it takes.
    pub(super) async fn connect(&self, address: &Address) -> Result<MultiplexedConnection, Failure> {
        let roots = match &self.tls {
            Some(tls) => tls.read_authorities()?,
            None => None,
        };
        let error = match self.open(address, self.password.as_deref(), roots.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // As with the established server's library, a password that nobody asked for is no failure.
        let first = Self { database: 0, ..self.clone() };
        if error.kind() == ErrorKind::AuthenticationFailed
            && self.user.is_none()
            && let Ok(mut connection) = first.open(address, None, roots.clone()).await
            && let Ok(reply) = connection.send_packed_command(&redis::cmd("PING")).await
            && needs_no_password(&reply)
        {
            Self::tell_of_password(address);
            return self.open(address, None, roots).await.map_err(|error| failure_of(&error));
        }
        Err(failure_of(&error))
    }

    /// Warns once that a server needs no password.
    fn tell_of_password(address: &Address) {
        static TOLD: Mutex<Vec<Address>> = Mutex::new(Vec::new());
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(address) {
            told.push(address.clone());
            warn!("the Redis server {address} needs no password, and the one of DigestDB is not used");
        }
    }

    async fn open(
        &self,
        address: &Address,
        password: Option<&str>,
        root_cert: Option<Vec<u8>>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let addr = match (address, &self.tls) {
            (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
            (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
            (Address::Tcp(host, port), Some(tls)) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: !tls.verify,
                tls_params: None,
            },
        };
        let mut settings = RedisConnectionInfo::default().set_db(self.database).set_skip_set_lib_name();
        if let Some(user) = self.user.as_deref().filter(|_| password.is_some()) {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = addr.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = match &self.tls {
            None => Client::open(info)?,
            Some(_) => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?,
        };
        // Who asks has set a limit, for all of it.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn needs_no_password(reply: &Value) -> bool {
    match reply {
        Value::SimpleString(pong) => pong == "PONG",
        Value::ServerError(error) => error.code() == "NOPERM",
        _ => false,
    }
}

/// Why there is no connection, as the library says.
pub(super) fn failure_of(error: &RedisError) -> Failure {
    let is_final = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => true,
        ErrorKind::Io => is_certificate(error),
        _ if error.to_string().contains("max number of clients") => false,
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "ERR")),
    };
    Failure { why: error.to_string(), is_final }
}

/// What a server replied when it refused.
pub(super) fn refusal(reply: &Value) -> Option<Failure> {
    match reply {
        Value::ServerError(error) => Some(failure_of(&RedisError::from(error.clone()))),
        _ => None,
    }
}

/// Whether somebody else's certificate was shown, which another attempt does not change.
fn is_certificate(error: &RedisError) -> bool {
    error.to_string().to_ascii_lowercase().contains("certificate")
}
