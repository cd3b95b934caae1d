//! Identities of databases, by which a journal recognises its source and destination.

use std::fmt;

use jiff::tz::TimeZone;
use sha1::Digest as _;

use crate::record::Timestamp;
use crate::storage::bulk::{Bulk, BulkError};
use pyzor_wire::digest::hex;

/// The names and the time zone of a database.
#[derive(Clone, Debug)]
pub(super) struct DatabaseIdentity {
    /// Names that identify the database. The first one is its DSN as spelled in this run.
    pub(super) names: Vec<String>,
    /// The time zone of its dates; none if they do not depend on one.
    pub(super) zone: Option<TimeZone>,
}

impl DatabaseIdentity {
    /// Reads the identity of a database.
    pub(super) async fn of(database: &dyn Bulk) -> Result<Self, BulkError> {
        let mut names = vec![database.describe()];
        names.extend(database.names().await?);
        Ok(Self { names, zone: database.zone() })
    }

    /// Whether one of these lines is a name of the database.
    pub(super) fn is_one_of(&self, names: &str) -> bool {
        names.lines().any(|name| self.names.iter().any(|own| own == name))
    }
}

/// The offsets of a time zone from 1970 to a moment. Two zones with the same offsets give dates the same meaning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ZoneOffsets {
    pub(super) name: String,
    /// End of the compared time: offsets after it may change with a new time zone database.
    pub(super) until: Timestamp,
    /// Hash of all offsets until then.
    pub(super) offsets: String,
}

impl ZoneOffsets {
    /// Computes the offsets of a zone until a moment.
    pub(super) fn of(zone: &TimeZone, until: Timestamp) -> Self {
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let mut offset = zone.to_offset(epoch);
        let mut offsets = sha1::Sha1::new();
        offsets.update(offset.seconds().to_le_bytes());
        let end = jiff::Timestamp::from_microsecond(until.micros()).unwrap_or(epoch);
        for transition in zone.following(epoch).take_while(|transition| transition.timestamp() <= end) {
            // Some transitions change only the abbreviation of the zone.
            if std::mem::replace(&mut offset, transition.offset()) != offset {
                offsets.update(transition.timestamp().as_second().to_le_bytes());
                offsets.update(offset.seconds().to_le_bytes());
            }
        }
        let setting = || std::env::var("TZ").unwrap_or_else(|_| "without a name".to_owned());
        let name = zone.iana_name().map_or_else(setting, str::to_owned);
        Self { name, until, offsets: String::from_utf8_lossy(&hex(&offsets.finalize().into())).into_owned() }
    }

    /// Parses the text written by [`fmt::Display`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let until = Timestamp::from_micros(lines.next()?.parse().ok()?);
        let (offsets, name) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        Some(Self { name, until, offsets })
    }
}

impl fmt::Display for ZoneOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}", self.until.micros(), self.offsets, self.name.replace('\n', " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_compared_by_their_offsets() {
        let of = |name: &str| {
            ZoneOffsets::of(&TimeZone::get(name).unwrap(), Timestamp::from_seconds(1_790_000_000))
        };
        assert_eq!(of("UTC").offsets, of("Etc/UTC").offsets);
        assert_ne!(of("UTC").offsets, of("Europe/London").offsets);
        assert_ne!(of("America/New_York").offsets, of("Europe/London").offsets);
        let berlin = of("Europe/Berlin");
        assert_eq!(ZoneOffsets::parse(&berlin.to_string()), Some(berlin));
    }
}
