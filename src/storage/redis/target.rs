//! The Redis that `DigestDB` names: its servers, login, database and TLS settings.

use std::path::PathBuf;

use crate::storage::remote::dsn::{self, DsnError, DsnHost, DsnUrl};
use crate::storage::remote::tls::Tls;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// The parameters that a URL may have after its `?`.
const PARAMETERS: &str =
    "ca, db, password, user, verify and, for sentinels, sentinel_password, sentinel_user";

/// A parsed `DigestDB` of the Redis engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisTarget {
    pub(super) servers: RedisServers,
    pub(super) access: RedisLogin,
}

/// The servers to connect to first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedisServers {
    /// A single server.
    One(RedisAddress),
    /// Some nodes of a cluster, from which all nodes are discovered.
    Cluster(Vec<RedisAddress>),
    /// Sentinels, which name the master of the service.
    Sentinels { sentinels: Vec<RedisAddress>, service: String, access: RedisLogin },
}

/// The address on which a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum RedisAddress {
    /// A host name or an IP address, and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The login, database and TLS settings of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RedisLogin {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
    pub(super) tls: Option<Tls>,
}

/// The kinds of servers that a URL scheme stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UrlKind {
    Server,
    Socket,
    Cluster,
    Sentinels,
}

impl RedisTarget {
    /// Parses `host,port,password,database[,user]` or a URL.
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
            "" => RedisAddress::Tcp("localhost".to_owned(), port),
            path if path.contains('/') => RedisAddress::Unix(path.into()),
            host => RedisAddress::Tcp(host.to_owned(), port),
        };
        let non_empty = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let access = RedisLogin {
            user: rest.first().and_then(|user| non_empty(user)),
            password: non_empty(password),
            database: number(database.trim(), "the fourth part, the database,")?,
            tls: None,
        };
        Self { servers: RedisServers::One(address), access }.checked()
    }

    fn parse_url(scheme: &str, dsn: &str) -> Result<Self, DsnError> {
        let (kind, is_encrypted) = UrlKind::of_scheme(scheme)?;
        let mut url = DsnUrl::parse(dsn)?;
        let tls = take_tls(&mut url, is_encrypted)?;
        let (user, password) = take_login(&mut url)?;
        let parameter = url.take("db");
        let sentinel_access = RedisLogin {
            user: url.take("sentinel_user"),
            password: url.take("sentinel_password"),
            database: 0,
            tls: tls.clone(),
        };
        url.finish(PARAMETERS)?;
        let servers = match kind {
            UrlKind::Server => single_server(&url)?,
            UrlKind::Socket => socket(&url)?,
            UrlKind::Cluster => cluster(&url)?,
            UrlKind::Sentinels => sentinels(&url, sentinel_access)?,
        };
        let rest = match kind {
            UrlKind::Server | UrlKind::Cluster => url.path.as_slice(),
            UrlKind::Socket => &[],
            // The first part is the service.
            UrlKind::Sentinels => &url.path[1..],
        };
        let database = one_value("db", rest.first().cloned(), parameter)?.unwrap_or_default();
        let access = RedisLogin { user, password, database: number(&database, "the database")?, tls };
        if rest.len() > 1 {
            return Err(DsnError::new("the URL's path has too many parts"));
        }
        Self { servers, access }.checked()
    }

    fn checked(self) -> Result<Self, DsnError> {
        if self.access.user.is_some() && self.access.password.is_none() {
            return Err(DsnError::new("the user has no password: add one"));
        }
        if matches!(self.servers, RedisServers::Cluster(_)) && self.access.database != 0 {
            return Err(DsnError::new("a cluster has only the database 0: remove the number"));
        }
        Ok(self)
    }

    /// Returns the servers and the database for messages, without the password.
    pub(super) fn describe(&self) -> String {
        let list = |addresses: &[RedisAddress]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        match &self.servers {
            RedisServers::One(address) => format!("{address}, database {}", self.access.database),
            RedisServers::Cluster(seeds) => format!("the cluster of {}", list(seeds)),
            RedisServers::Sentinels { sentinels, service, .. } => {
                format!("{service} of the sentinels {}, database {}", list(sentinels), self.access.database)
            }
        }
    }

    /// Resolves the configured servers to all their addresses. A host that cannot be resolved adds none.
    pub(super) async fn resolved(&self) -> Vec<String> {
        let (named, service) = match &self.servers {
            RedisServers::One(address) => (std::slice::from_ref(address), ""),
            RedisServers::Cluster(seeds) => (seeds.as_slice(), ""),
            RedisServers::Sentinels { sentinels, service, .. } => (sentinels.as_slice(), service.as_str()),
        };
        let mut resolved = Vec::new();
        for address in named {
            match address {
                RedisAddress::Tcp(host, port) => resolved.extend(
                    tokio::net::lookup_host((host.as_str(), *port))
                        .await
                        .into_iter()
                        .flatten()
                        .map(|address| format!("{service} {address}")),
                ),
                RedisAddress::Unix(path) => {
                    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                    resolved.push(path.display().to_string());
                }
            }
        }
        resolved
    }
}

impl UrlKind {
    /// Returns the kind, and whether connections use TLS.
    fn of_scheme(scheme: &str) -> Result<(Self, bool), DsnError> {
        Ok(match scheme {
            "redis" | "valkey" => (Self::Server, false),
            "rediss" | "valkeys" => (Self::Server, true),
            "redis+unix" | "valkey+unix" | "unix" => (Self::Socket, false),
            "redis+cluster" => (Self::Cluster, false),
            "rediss+cluster" => (Self::Cluster, true),
            "redis+sentinel" => (Self::Sentinels, false),
            "rediss+sentinel" => (Self::Sentinels, true),
            _ => {
                return Err(DsnError::new(
                    "the URL must begin with redis://, rediss://, redis+unix://, redis+cluster://, \
                     rediss+cluster://, redis+sentinel:// or rediss+sentinel://",
                ));
            }
        })
    }
}

fn take_tls(url: &mut DsnUrl, is_encrypted: bool) -> Result<Option<Tls>, DsnError> {
    let tls = Tls {
        authorities: url.take("ca").map(PathBuf::from),
        verify: url.take_bool("verify")?.unwrap_or(true),
    };
    if !is_encrypted && (tls.authorities.is_some() || !tls.verify) {
        return Err(DsnError::new("ca and verify need TLS: begin the URL with rediss"));
    }
    Ok(is_encrypted.then_some(tls))
}

/// Takes the user and the password, which may stand before the host or be parameters.
fn take_login(url: &mut DsnUrl) -> Result<(Option<String>, Option<String>), DsnError> {
    let before_host = [url.user.take(), url.password.take()];
    let [user, password] = before_host.map(|text| text.filter(|text| !text.is_empty()));
    let user = one_value("user", user, url.take("user"))?;
    let password = one_value("password", password, url.take("password"))?;
    Ok((user, password.filter(|text| !text.is_empty())))
}

fn single_server(url: &DsnUrl) -> Result<RedisServers, DsnError> {
    match addresses(url, PORT).as_slice() {
        [] => Ok(RedisServers::One(RedisAddress::Tcp("localhost".to_owned(), PORT))),
        [address] => Ok(RedisServers::One(address.clone())),
        _ => Err(DsnError::new("the URL has several hosts: begin it with redis+cluster or redis+sentinel")),
    }
}

fn socket(url: &DsnUrl) -> Result<RedisServers, DsnError> {
    if !url.hosts.is_empty() || url.path.is_empty() {
        return Err(DsnError::new("expected the socket's path, as in redis+unix:///run/redis.sock"));
    }
    Ok(RedisServers::One(RedisAddress::Unix(format!("/{}", url.path.join("/")).into())))
}

fn cluster(url: &DsnUrl) -> Result<RedisServers, DsnError> {
    match url.hosts.is_empty() {
        true => Err(DsnError::new("the URL has no host: name a node of the cluster")),
        false => Ok(RedisServers::Cluster(addresses(url, PORT))),
    }
}

fn sentinels(url: &DsnUrl, access: RedisLogin) -> Result<RedisServers, DsnError> {
    let service =
        url.path.first().cloned().ok_or_else(|| {
            DsnError::new("expected the service, as in redis+sentinel://host:26379/mymaster/0")
        })?;
    let sentinels = addresses(url, SENTINEL_PORT);
    if sentinels.is_empty() {
        return Err(DsnError::new("the URL has no host: name the sentinels"));
    }
    if let Some(twice) = (1..sentinels.len()).find(|at| sentinels[..*at].contains(&sentinels[*at])) {
        return Err(DsnError::new(format!("the sentinel {} is named twice: remove one", sentinels[twice])));
    }
    Ok(RedisServers::Sentinels { sentinels, service, access })
}

fn addresses(url: &DsnUrl, default_port: u16) -> Vec<RedisAddress> {
    let address = |host: &DsnHost| RedisAddress::Tcp(host.name.clone(), host.port.unwrap_or(default_port));
    url.hosts.iter().map(address).collect()
}

/// Returns the value that a URL gives in its usual place or as a parameter. Two different values are an error.
fn one_value(
    name: &str,
    usual: Option<String>,
    parameter: Option<String>,
) -> Result<Option<String>, DsnError> {
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

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
