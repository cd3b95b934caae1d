//! Parsing `DigestDB`: the server, the account and the table.

use std::path::PathBuf;

use crate::storage::remote::dsn::{self, DsnError, DsnHost, DsnUrl};
use crate::storage::remote::tls::Tls;

const PORT: u16 = 3306;
/// The environment variable with the default port. MySQL's client library, which the Python server uses, reads it, too.
const PORT_VARIABLE: &str = "MYSQL_TCP_PORT";
/// The parameters of a URL, for error messages.
const PARAMETERS: &str = "ca, socket, tls and verify";

/// The table of records and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MySqlTarget {
    pub(super) server: MySqlServer,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
    /// The database of the table, if it is not the one that the connection selects.
    other_database: Option<String>,
    table: String,
    pub(super) tls: Option<Tls>,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MySqlServer {
    /// A host name or IP address, and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Socket(PathBuf),
    /// `localhost`: one of the usual sockets, otherwise TCP.
    Local,
}

impl MySqlTarget {
    /// Parses `host,user,password,database,table` or a URL.
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
                 mysql://user:password@host/database/table (write a comma in the password as %2C)",
            ));
        };
        let server = match host.trim() {
            "" | "localhost" => MySqlServer::Local,
            path if path.starts_with('/') => MySqlServer::Socket(path.into()),
            host => MySqlServer::of(DsnHost::parse(host)?),
        };
        Self::new(server, user.trim(), password, database.trim(), table.trim(), None)
    }

    fn parse_url(dsn: &str) -> Result<Self, DsnError> {
        let mut url = DsnUrl::parse(dsn)?;
        let (tls, verify, authorities) = (url.take_bool("tls")?, url.take_bool("verify")?, url.take("ca"));
        let socket = url.take("socket");
        url.finish(PARAMETERS)?;
        if tls == Some(false) && (verify.is_some() || authorities.is_some()) {
            return Err(DsnError::new("ca and verify need TLS, but tls is no"));
        }
        let tls = (tls == Some(true) || verify.is_some() || authorities.is_some())
            .then(|| Tls { authorities: authorities.map(PathBuf::from), verify: verify.unwrap_or(true) });
        let server = match (socket, url.hosts.as_slice()) {
            (Some(path), _) if path.starts_with('/') => MySqlServer::Socket(path.into()),
            (Some(_), _) => return Err(DsnError::new("the socket must be an absolute path")),
            (None, []) => MySqlServer::Local,
            (None, [host]) if host.name == "localhost" && host.port.is_none() && tls.is_none() => {
                MySqlServer::Local
            }
            (None, [host]) => MySqlServer::of(host.clone()),
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
        server: MySqlServer,
        user: &str,
        password: &str,
        database: &str,
        table: &str,
        tls: Option<Tls>,
    ) -> Result<Self, DsnError> {
        let mut names = identifiers(table).ok_or_else(|| DsnError::new("the table name is malformed"))?;
        let table = names.pop().filter(|name| !name.is_empty());
        let table = table.ok_or_else(|| DsnError::new("the table name, which is the last part, is empty"))?;
        let other_database = names.pop();
        if !names.is_empty() || other_database.as_ref().is_some_and(String::is_empty) {
            return Err(DsnError::new("the table name is malformed"));
        }
        if database.is_empty() {
            return Err(DsnError::new("the database name is empty"));
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

    /// Returns the server and the table for messages, without the password.
    pub(super) fn describe(&self) -> String {
        let server = match &self.server {
            MySqlServer::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            MySqlServer::Tcp(host, port) => format!("{host}:{port}"),
            MySqlServer::Socket(path) => path.display().to_string(),
            MySqlServer::Local => "localhost".to_owned(),
        };
        let (database, table) = self.names();
        format!("{server}, table {database}.{table}")
    }

    /// Returns the table's name for statements, with its database and quoted.
    pub(super) fn quoted_table(&self) -> String {
        let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
        let (database, table) = self.names();
        format!("{}.{}", quote(database), quote(table))
    }

    /// Returns the names of the table's database and of the table, unquoted.
    pub(super) fn names(&self) -> (&str, &str) {
        (self.other_database.as_ref().unwrap_or(&self.database), &self.table)
    }
}

impl MySqlServer {
    fn of(host: DsnHost) -> Self {
        Self::Tcp(host.name, host.port.unwrap_or_else(default_port))
    }
}

pub(super) fn default_port() -> u16 {
    std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse().ok()).unwrap_or(PORT)
}

/// Splits `name` or `name.name`, where each name may be quoted with backticks. Returns `None` if the text is malformed.
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

    fn target(dsn: &str) -> MySqlTarget {
        MySqlTarget::parse(dsn).unwrap()
    }

    #[test]
    fn five_parts_are_parsed() {
        assert_eq!(
            target("localhost,user,password,pyzor,digests").describe(),
            "localhost, table pyzor.digests"
        );
        assert_eq!(target("db:3307,u,p,a,b").server, MySqlServer::Tcp("db".to_owned(), 3307));
        assert_eq!(target("[::1]:3307,u,p,a,b").describe(), "[::1]:3307, table a.b");
        assert_eq!(target("/run/x.sock,u,,a,b").server, MySqlServer::Socket("/run/x.sock".into()));
        for wrong in ["pyzord.db", "h,u,p,a", "h,u,p,a,b,c", "h,u,p,,b", "h,u,p,a,", "h:x,u,p,a,b"] {
            assert!(MySqlTarget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn url_is_parsed() {
        let url = target("mysql://me%40x:p%2Cw@h:3307/a%2Db/t?ca=/x.pem&verify=no");
        assert_eq!((url.user.as_str(), url.password.as_str()), ("me@x", "p,w"));
        assert_eq!(url.server, MySqlServer::Tcp("h".to_owned(), 3307));
        assert_eq!(url.quoted_table(), "`a-b`.`t`");
        assert_eq!(url.tls, Some(Tls { authorities: Some("/x.pem".into()), verify: false }));
        assert_eq!(target("mysql://u@localhost/a/b").server, MySqlServer::Local);
        assert_eq!(target("mysql://u@/a/b?socket=/s").server, MySqlServer::Socket("/s".into()));
        for wrong in ["mysql://h/a", "mysql://h/a/b?x=1", "pg://h/a/b", "mysql://h/a/b?tls=no&verify=yes"] {
            assert!(MySqlTarget::parse(wrong).is_err(), "{wrong}");
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
            assert_eq!(target(&format!("h,u,p,a,{table}")).quoted_table(), quoted);
        }
        for wrong in ["a.b.c", "`a", "`a`b", ".b", "a."] {
            assert!(MySqlTarget::parse(&format!("h,u,p,a,{wrong}")).is_err(), "{wrong}");
        }
    }
}
