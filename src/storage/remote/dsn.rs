//! The parts of `DigestDB` values that the Redis and MySQL engines have in common: parts between commas, or a URL.
//! Error texts never quote the value, because it may hold a password.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// A `DigestDB` value that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct DsnError(pub(crate) String);

impl DsnError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A URL, `scheme://user:password@host:port,host:port/path/path?name=value`, with percent-encoding decoded. Unlike
/// standard URLs it may have several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DsnUrl {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: Vec<DsnHost>,
    /// The non-empty parts of the path.
    pub(crate) path: Vec<String>,
    query: Vec<(String, String)>,
}

/// A host name or an IP address, with a port if one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DsnHost {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

/// Returns the scheme of a URL, or none if the text is not a URL.
pub(crate) fn scheme(dsn: &str) -> Option<&str> {
    let (scheme, _) = dsn.split_once("://")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    (!scheme.is_empty() && scheme.bytes().all(fits)).then_some(scheme)
}

impl DsnUrl {
    /// Parses a URL of any scheme.
    pub(crate) fn parse(dsn: &str) -> Result<Self, DsnError> {
        let rest = dsn.split_once("://").map_or(dsn, |(_, rest)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // An unencoded slash would split a password, and its parts would appear in messages as a host or a path.
        if !authority.is_empty() && path.contains('@') || authority.contains('@') && query.contains('@') {
            return Err(DsnError::new(
                "the URL must encode / as %2F, ? as %3F and @ as %40 within its parts",
            ));
        }
        // The last @ counts, because passwords with an unencoded @ are common.
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (mut user, mut password) = (None, None);
        if let Some(login) = login {
            let (name, secret) = login.split_once(':').map_or((login, None), |(name, key)| (name, Some(key)));
            user = Some(decode(name)?).filter(|name| !name.is_empty());
            password = secret.map(decode).transpose()?;
        }
        let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(DsnHost::parse);
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self {
            user,
            password,
            hosts: hosts.collect::<Result<_, _>>()?,
            path: path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Result<_, _>>()?,
            query: query.collect::<Result<_, DsnError>>()?,
        })
    }

    /// Removes a parameter and returns its value, the last one if it is given several times.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let value = self.query.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.clone());
        self.query.retain(|(given, _)| given != name);
        value
    }

    /// Removes a parameter and returns its value, which must be yes or no.
    pub(crate) fn take_bool(&mut self, name: &str) -> Result<Option<bool>, DsnError> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("yes" | "true" | "1") => Ok(Some(true)),
            Some("no" | "false" | "0") => Ok(Some(false)),
            Some(_) => Err(DsnError::new(format!("the URL's {name} must be yes or no"))),
        }
    }

    /// Returns an error if any parameter has not been taken.
    pub(crate) fn finish(&self, known: &str) -> Result<(), DsnError> {
        match self.query.first() {
            None => Ok(()),
            // The parameter's name is not quoted, because it may be a misplaced password.
            Some(_) => {
                Err(DsnError::new(format!("the URL has an unknown parameter: known ones are {known}")))
            }
        }
    }
}

impl DsnHost {
    /// Parses `name`, `name:port`, `[v6]:port` or a bare IPv6 address.
    pub(crate) fn parse(text: &str) -> Result<Self, DsnError> {
        let wrong = || DsnError::new("the port must be a number from 1 to 65535");
        let number = |port: &str| port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong);
        // Anything else may be part of a password, and would appear in messages.
        let v6 = |name: &str| {
            let address = name.split_once('%').map_or(name, |(address, _zone)| address);
            let is_address = address.parse::<Ipv6Addr>().is_ok();
            is_address
                .then(|| name.to_owned())
                .ok_or_else(|| DsnError::new("a host with colons must be an IPv6 address"))
        };
        if let Some((name, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(number(port)?),
                None if rest.is_empty() => None,
                None => return Err(wrong()),
            };
            return Ok(Self { name: v6(name)?, port });
        }
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => Ok(Self { name: v6(text)?, port: None }),
            Some((name, port)) => Ok(Self { name: decode(name)?, port: Some(number(port)?) }),
            None => Ok(Self { name: decode(text)?, port: None }),
        }
    }
}

fn decode(text: &str) -> Result<String, DsnError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(DsnError::new("the URL is not UTF-8 when decoded")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: Option<u16>) -> DsnHost {
        DsnHost { name: name.to_owned(), port }
    }

    #[test]
    fn url_is_split_and_decoded() {
        let mut url =
            DsnUrl::parse("redis://me%40x:p%2fw%25@[::1]:7000,b,c:1/a%2Fb//2?ca=/x%20y&verify=no").unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me@x"), Some("p/w%")));
        assert_eq!(url.hosts, [host("::1", Some(7000)), host("b", None), host("c", Some(1))]);
        assert_eq!(url.path, ["a/b", "2"]);
        assert_eq!(url.take("ca").as_deref(), Some("/x y"));
        assert!(url.finish("").is_err());
        assert_eq!(url.take_bool("verify"), Ok(Some(false)));
        assert_eq!(url.finish(""), Ok(()));
    }

    #[test]
    fn user_and_password_are_optional() {
        for (dsn, user, password) in [
            ("redis://h", None, None),
            ("redis://u@h", Some("u"), None),
            ("redis://:p@h", None, Some("p")),
            ("redis://u:@h", Some("u"), Some("")),
            ("redis://u:p@q@h", Some("u"), Some("p@q")),
        ] {
            let url = DsnUrl::parse(dsn).unwrap();
            assert_eq!((url.user.as_deref(), url.password.as_deref()), (user, password), "{dsn}");
            assert_eq!(url.hosts, [host("h", None)], "{dsn}");
        }
    }

    #[test]
    fn password_with_an_unencoded_slash_is_refused() {
        for wrong in ["mysql://u:12/secret@h/a/b", "mysql://u:p@/secret@h/a/b", "redis://u:p@secret?db=1@h/0"]
        {
            assert!(DsnUrl::parse(wrong).is_err(), "{wrong}");
        }
        assert!(DsnUrl::parse("mysql://h:12/a/b%40c").is_ok());
        assert!(DsnUrl::parse("redis+unix:///run/me@host.sock").is_ok());
        assert!(DsnUrl::parse("redis://h:1/0?password=p@w").is_ok());
    }

    #[test]
    fn port_is_optional_and_colons_need_an_ipv6_address() {
        assert_eq!(DsnHost::parse("h:1").unwrap(), host("h", Some(1)));
        assert_eq!(DsnHost::parse("fe80::1").unwrap(), host("fe80::1", None));
        assert_eq!(DsnHost::parse("[fe80::1%eth0]").unwrap(), host("fe80::1%eth0", None));
        for wrong in ["h:", "h:0", "h:65536", "h:x", "[::1]x", "[::1]:", "[h]", "u:12:secret"] {
            assert!(DsnHost::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scheme_is_found_only_in_a_url() {
        assert_eq!(scheme("redis+unix:///x"), Some("redis+unix"));
        assert_eq!(scheme("localhost,6379,a://b,0"), None);
        assert_eq!(scheme("pyzord.db"), None);
    }
}
