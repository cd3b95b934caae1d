//! The two forms of records in Redis, and the commands for them: a hash with times in seconds since the epoch
//! (engine `redis`), and a text with local dates (the older engine `redis_v0`).

use jiff::tz::TimeZone;
use redis::Cmd;
use sha1::Digest as _;

use super::scan;
use crate::record::{Record, Timestamp};
use pyzor_wire::digest::{Digest, hex};

pub(super) const FIELDS: [&str; 6] =
    ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];
/// Longest expiry in seconds, about 30,000 years. Redis refuses values whose milliseconds exceed 64 bits.
const LONGEST_EXPIRY: u64 = 1_000_000_000_000;

/// The key of trial commands, under which nothing stays stored.
pub(super) const PROBE: &[u8] = b"pyzord.probe";

/// The form in which an engine stores records, and its scripts.
#[derive(Debug)]
pub(super) struct RecordForm {
    pub(super) kind: FormKind,
    counting: LuaScript,
    swapping: LuaScript,
}

#[derive(Debug)]
struct LuaScript {
    text: String,
    /// The SHA-1 in hexadecimal, by which `EVALSHA` calls the script.
    hash: String,
}

impl LuaScript {
    fn new(text: String) -> Self {
        let hash = hex(&sha1::Sha1::digest(&text).into());
        Self { hash: String::from_utf8_lossy(&hash).into_owned(), text }
    }
}

/// The kind of value under a key.
#[derive(Debug)]
pub(super) enum FormKind {
    Hash,
    /// Text with dates in this time zone.
    Text(TimeZone),
}

impl RecordForm {
    /// The form of the engine `redis`.
    pub(super) fn hash() -> Self {
        Self::new(FormKind::Hash, include_str!("hash.lua"), include_str!("swap_hash.lua"))
    }

    /// The form of the engine `redis_v0`, with dates in this time zone.
    pub(super) fn text(zone: TimeZone) -> Self {
        Self::new(FormKind::Text(zone), include_str!("text.lua"), include_str!("swap_text.lua"))
    }

    fn new(kind: FormKind, counting: &str, swapping: &str) -> Self {
        Self {
            kind,
            counting: LuaScript::new(format!("{}\n{counting}", include_str!("counting.lua"))),
            swapping: LuaScript::new(swapping.to_owned()),
        }
    }

    pub(super) fn engine(&self) -> &'static str {
        match self.kind {
            FormKind::Hash => "redis",
            FormKind::Text(_) => "redis_v0",
        }
    }

    /// Returns the time zone of stored dates, or none for seconds.
    pub(super) fn zone(&self) -> Option<&TimeZone> {
        match &self.kind {
            FormKind::Hash => None,
            FormKind::Text(zone) => Some(zone),
        }
    }

    /// Returns the part of a key before the digest.
    pub(super) fn prefix(&self) -> &'static str {
        match self.kind {
            FormKind::Hash => "pyzord.digest_v1.",
            FormKind::Text(_) => "pyzord.digest.",
        }
    }

    pub(super) fn key(&self, digest: Digest) -> Vec<u8> {
        [self.prefix().as_bytes(), &digest.to_hex()].concat()
    }

    pub(super) fn without_prefix<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.strip_prefix(self.prefix().as_bytes()).unwrap_or(key)
    }

    /// Returns the script that counts.
    pub(super) fn script(&self) -> &str {
        &self.counting.text
    }

    /// Returns all commands that counting needs, on the probe key. The second group stores a record and removes it
    /// again, so it must only be sent if the first one is permitted.
    pub(super) fn trial(&self, age: Option<u64>) -> Vec<Vec<Cmd>> {
        let store = match self.kind {
            FormKind::Hash => redis::cmd("HSET").arg(PROBE).arg(FIELDS[0]).arg(0).take(),
            FormKind::Text(_) => redis::cmd("SET").arg(PROBE).arg("").take(),
        };
        let mut first = expiry_trial();
        first.push(self.look_up(PROBE));
        first.push(scan::command(self.prefix(), "0", 1));
        first.push(redis::cmd("SCRIPT").arg("LOAD").arg(self.script()).take());
        first.push(self.count(&[], "0", age));
        vec![first, vec![store, redis::cmd("EXPIRE").arg(PROBE).arg(0).take()]]
    }

    /// Returns the commands that load the script for replacing and deleting records.
    pub(super) fn swapping_trial(&self) -> Vec<Vec<Cmd>> {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(&self.swapping.text).take();
        vec![expiry_trial(), vec![load]]
    }

    /// Returns the command that reads a record.
    pub(super) fn look_up(&self, key: &[u8]) -> Cmd {
        match self.kind {
            FormKind::Hash => redis::cmd("HMGET").arg(key).arg(&FIELDS).take(),
            FormKind::Text(_) => redis::cmd("GET").arg(key).take(),
        }
    }

    /// Returns the command that reads a record's counts, without its times where that is cheaper.
    pub(super) fn look_up_counts(&self, key: &[u8]) -> Cmd {
        match self.kind {
            FormKind::Hash => redis::cmd("HMGET").arg(key).arg(FIELDS[0]).arg(FIELDS[3]).take(),
            FormKind::Text(_) => self.look_up(key),
        }
    }

    /// Returns the command that counts reports and whitelistings. `moment` is the current time, `age` the seconds after
    /// which the records expire.
    pub(super) fn count(&self, changes: &[(Digest, [u32; 2])], moment: &str, age: Option<u64>) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.counting.hash).arg(changes.len());
        for (digest, _) in changes {
            cmd.arg(self.key(*digest));
        }
        cmd.arg(moment).arg(age.map_or(0, |age| age.min(LONGEST_EXPIRY)));
        for (_, amounts) in changes {
            cmd.arg(amounts);
        }
        cmd
    }

    /// Returns the commands that replace a record by another one, which expires at `expires` or never.
    pub(super) fn store(&self, key: &[u8], record: &Record, expires: Option<Timestamp>) -> Vec<Cmd> {
        let mut store = match &self.kind {
            FormKind::Hash => redis::cmd("HSET"),
            FormKind::Text(_) => redis::cmd("SET"),
        };
        store.arg(key);
        self.push_values(&mut store, record);
        let expiry = match (&self.kind, expires) {
            (_, Some(moment)) => redis::cmd("EXPIREAT").arg(key).arg(moment.seconds()).take(),
            // SET has removed any expiry.
            (FormKind::Text(_), None) => return vec![store],
            (FormKind::Hash, None) => redis::cmd("PERSIST").arg(key).take(),
        };
        vec![store, expiry]
    }

    /// Returns the command that replaces a record if its value is still `held`.
    pub(super) fn replace(
        &self,
        key: &[u8],
        held: &[u8],
        record: &Record,
        expires: Option<Timestamp>,
    ) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.swapping.hash).arg(1).arg(key).arg(held);
        cmd.arg(expires.map_or(0, Timestamp::seconds));
        self.push_values(&mut cmd, record);
        cmd
    }

    /// Returns the command that deletes a record if its value is still `held`.
    pub(super) fn delete(&self, key: &[u8], held: &[u8]) -> Cmd {
        redis::cmd("EVALSHA").arg(&self.swapping.hash).arg(1).arg(key).arg(held).take()
    }
}

/// A write command without effect, which shows whether the server accepts changes.
pub(super) fn probe_write() -> Cmd {
    redis::cmd("PERSIST").arg(PROBE).take()
}

/// Write commands without effect, which show whether the account may set and remove expiry.
fn expiry_trial() -> Vec<Cmd> {
    vec![probe_write(), redis::cmd("EXPIRE").arg(PROBE).arg(1).take()]
}
