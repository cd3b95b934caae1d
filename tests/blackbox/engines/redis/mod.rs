//! Redis: records as hashes (`redis`) and as texts (`redis_v0`).

mod ours;
mod records;

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Record, Store, Tally};
use crate::harness::{Certificate, Home, Redis};

/// A Redis server with records as hashes.
pub(super) struct Hashes(Arc<Redis>);

impl Hashes {
    pub(super) fn redis(&self) -> &Redis {
        &self.0
    }
}

/// The key of a digest.
pub(super) fn key(digest: &str) -> String {
    format!("pyzord.digest_v1.{digest}")
}

impl Store for Hashes {
    const LIMIT: i64 = i64::MAX;

    fn new() -> Self {
        Self(Arc::new(Redis::start()))
    }

    fn home(&self, settings: &str) -> Home {
        let port = self.0.port();
        Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{port},,0\n{settings}"))
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        for (digest, (reports, whitelistings)) in records {
            let key = key(digest);
            for (name, tally) in [("r", reports), ("wl", whitelistings)] {
                // A server writes only the fields that a request has changed.
                if let Tally { count, first: Some(first), last: Some(last) } = tally {
                    let field = |what: &str, value: &i64| {
                        self.0.cli(&["hset", &key, &format!("{name}_{what}"), &value.to_string()]);
                    };
                    field("count", count);
                    field("entered", first);
                    field("updated", last);
                }
            }
        }
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let fields = self.0.hash(&key(digest));
        if fields.is_empty() {
            return None;
        }
        let number = |name: &str| {
            let text = fields.get(name)?;
            let number: i64 = text.parse().unwrap();
            assert_eq!(*text, number.to_string(), "not in the form that servers write");
            Some(number)
        };
        let tally = |name: &str| Tally {
            count: number(&format!("{name}_count")).unwrap_or(0),
            first: number(&format!("{name}_entered")).filter(|time| *time != 0),
            last: number(&format!("{name}_updated")).filter(|time| *time != 0),
        };
        Some((tally("r"), tally("wl")))
    }
}

/// A Redis server with records as texts.
pub(super) struct Texts(Arc<Redis>);

impl Store for Texts {
    const LIMIT: i64 = i64::MAX;

    fn new() -> Self {
        Self(Arc::new(Redis::start()))
    }

    fn home(&self, settings: &str) -> Home {
        let port = self.0.port();
        Home::open().config(&format!("Engine = redis_v0\nDigestDB = 127.0.0.1,{port},,0\n{settings}"))
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        let date = |time: Option<i64>| {
            let zoned = |time| Timestamp::from_second(time).unwrap().to_zoned(TimeZone::UTC);
            time.map(|time| zoned(time).strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
        };
        let text = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
        for (digest, (reports, whitelistings)) in records {
            let value = format!("{},{}", text(reports), text(whitelistings));
            self.0.cli(&["set", &format!("pyzord.digest.{digest}"), &value]);
        }
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let text = self.0.cli(&["get", &format!("pyzord.digest.{digest}")]);
        let fields: Vec<&str> = text.trim_end().split(',').collect();
        if fields == [""] {
            return None;
        }
        assert_eq!(fields.len(), 6, "{text}");
        let date = |field: &str| {
            assert!(field.is_empty() || field.len() == 19, "{text}");
            (!field.is_empty()).then(|| {
                let date: DateTime = field.replace(' ', "T").parse().unwrap();
                date.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()
            })
        };
        let tally = |fields: &[&str]| Tally {
            count: fields[0].parse().unwrap(),
            first: date(fields[1]),
            last: date(fields[2]),
        };
        Some((tally(&fields[..3]), tally(&fields[3..])))
    }
}

/// The rights of an account for hashes on a single server, as in docs/redis.md.
pub(super) const RIGHTS: &str =
    "~pyzord.* resetchannels -@all +evalsha +script|load +hmget +hset +expire +persist +scan +select";

/// The further rights for texts.
pub(super) const RIGHTS_V0: &str = "+get +set";

pub(super) fn home(dsn: &str, settings: &str) -> Home {
    Home::open().config(&format!("Engine = redis\nDigestDB = {dsn}\n{settings}"))
}

fn dsn(redis: &Redis) -> String {
    format!("127.0.0.1,{},,0", redis.port())
}

/// The options of a server that accepts only TLS, on this port.
pub(super) fn tls_options(certificate: &Certificate, port: u16) -> String {
    format!(
        "--port 0 --tls-port {port} --tls-auth-clients no --tls-replication yes --tls-cert-file {} \
         --tls-key-file {} --tls-ca-cert-file {}",
        certificate.server().display(),
        certificate.key().display(),
        certificate.authority().display()
    )
}

/// The seconds until a key expires; -1 for never.
fn time_to_live(redis: &Redis, key: &str) -> i64 {
    redis.cli(&["ttl", key]).trim().parse().unwrap()
}

/// Starts a server that must fail, and returns its one error line.
#[track_caller]
pub(super) fn refusal(home: &Home) -> String {
    assert_eq!(home.try_start().err().expect("the server has started").code(), Some(1));
    let stderr = home.stderr();
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert!(errors.len() == 1 && !home.everything_said().contains("secret"), "{stderr}");
    errors[0].to_owned()
}
