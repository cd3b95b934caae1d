//! Where a Redis is, as `DigestDB` names it, and how a connection to it is made.

use std::path::PathBuf;

use crate::storage::remote::dsn::{self, DsnError, DsnHost, DsnUrl};
use crate::storage::remote::tls::Tls;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// What a URL may ask for behind its `?`.
const PARAMETERS: &str =
    "ca, db, password, user, verify and, for sentinels, sentinel_password, sentinel_user";

/// Where the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisTarget {
    pub(super) servers: RedisServers,
    pub(super) access: RedisLogin,
}

/// The servers that are to be asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RedisServers {
    /// The one server.
    One(RedisAddress),
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<RedisAddress>),
    /// Sentinels, which know who of a service is the master.
    Sentinels { sentinels: Vec<RedisAddress>, service: String, access: RedisLogin },
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum RedisAddress {
    /// A name or an IP address, and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What a server wants to see before it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RedisLogin {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
    pub(super) tls: Option<Tls>,
}

impl RedisTarget {
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
            "" => RedisAddress::Tcp("localhost".to_owned(), port),
            path if path.contains('/') => RedisAddress::Unix(path.into()),
            host => RedisAddress::Tcp(host.to_owned(), port),
        };
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let access = RedisLogin {
            user: rest.first().and_then(|user| some(user)),
            password: some(password),
            database: number(database.trim(), "the fourth part, the database,")?,
            tls: None,
        };
        Ok(Self { servers: RedisServers::One(address), access }).and_then(Self::checked)
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
        let mut url = DsnUrl::parse(dsn)?;
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
        let sentinel_access = RedisLogin {
            user: url.take("sentinel_user"),
            password: url.take("sentinel_password"),
            database: 0,
            tls: tls.clone(),
        };
        url.finish(PARAMETERS)?;
        let hosts = |port| {
            let address = |host: &DsnHost| RedisAddress::Tcp(host.name.clone(), host.port.unwrap_or(port));
            url.hosts.iter().map(address).collect::<Vec<_>>()
        };
        let mut path = url.path.iter().map(String::as_str);
        let servers = match kind {
            "unix" if url.hosts.is_empty() && !url.path.is_empty() => {
                let path = url.path.join("/");
                let database = number(database.as_deref().unwrap_or_default(), "the database")?;
                let access = RedisLogin { user, password, database, tls: None };
                return Self {
                    servers: RedisServers::One(RedisAddress::Unix(format!("/{path}").into())),
                    access,
                }
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
                if let Some(twice) =
                    (1..sentinels.len()).find(|at| sentinels[..*at].contains(&sentinels[*at]))
                {
                    return Err(DsnError::new(format!("the sentinel {} is named twice", sentinels[twice])));
                }
                RedisServers::Sentinels { sentinels, service: service.to_owned(), access }
            }
            "cluster" if !url.hosts.is_empty() => RedisServers::Cluster(hosts(PORT)),
            "cluster" => return Err(DsnError::new("the URL names no node of the cluster")),
            _ => match hosts(PORT).as_slice() {
                [] => RedisServers::One(RedisAddress::Tcp("localhost".to_owned(), PORT)),
                [address] => RedisServers::One(address.clone()),
                _ => {
                    return Err(DsnError::new(
                        "several hosts are for redis+cluster:// and redis+sentinel://",
                    ));
                }
            },
        };
        let database = one("db", path.next().map(str::to_owned), database)?.unwrap_or_default();
        let access = RedisLogin { user, password, database: number(&database, "the database")?, tls };
        if path.next().is_some() {
            return Err(DsnError::new("the URL's path has too many parts"));
        }
        Self { servers, access }.checked()
    }

    fn checked(self) -> Result<Self, DsnError> {
        if self.access.user.is_some() && self.access.password.is_none() {
            return Err(DsnError::new("a user needs a password"));
        }
        if matches!(self.servers, RedisServers::Cluster(_)) && self.access.database != 0 {
            return Err(DsnError::new("a cluster has only the database 0"));
        }
        Ok(self)
    }

    /// The servers and the database for people, without a password.
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

    /// The servers that are named, by all addresses that their names have.
    pub(super) async fn resolved(&self) -> Vec<String> {
        let (named, service) = match &self.servers {
            RedisServers::One(address) => (std::slice::from_ref(address), ""),
            RedisServers::Cluster(seeds) => (seeds.as_slice(), ""),
            RedisServers::Sentinels { sentinels, service, .. } => (sentinels.as_slice(), service.as_str()),
        };
        let mut resolved = Vec::new();
        for address in named {
            match address {
                // What has no address now is known by its other names.
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

impl RedisLogin {
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

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
