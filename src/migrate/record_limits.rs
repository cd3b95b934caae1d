//! Limits on records: too old to be transferred, too large for the destination, or not yet durable there.

use super::options::MigrateOptions;
use crate::record::{Record, Tally, Timestamp};
use crate::storage::bulk::{Bulk, Item};

/// Whether moved records are deleted from the source only after [`Bulk::bring_to_disk`].
pub(super) fn awaits_disk(options: &MigrateOptions, destination: &dyn Bulk) -> bool {
    options.delete && !options.no_durability && !options.dry_run && destination.is_lazy()
}

/// Returns the time before which a last change is too old; none without `--cleanup-age`.
pub(super) fn horizon(options: &MigrateOptions) -> Option<Timestamp> {
    let age = i64::try_from(options.cleanup_age?.as_micros()).unwrap_or(i64::MAX);
    Some(Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age)))
}

/// Whether a database cannot hold a record's counts, or its times to the second.
pub(super) fn is_clamped(destination: &dyn Bulk, record: &Record) -> bool {
    let clamped = destination.clamp(record);
    let differs = |one: &Tally, another: &Tally| {
        let seconds = |time: Option<Timestamp>| time.map(Timestamp::seconds);
        one.count != another.count
            || one.count != 0
                && (seconds(one.first) != seconds(another.first)
                    || seconds(one.last) != seconds(another.last))
    };
    differs(&record.reports, &clamped.reports) || differs(&record.whitelists, &clamped.whitelists)
}

/// Whether a count in the source exceeds an `i64`, which is the largest that any engine can hold.
pub(super) fn is_saturated(item: &Item, record: &Record) -> bool {
    const LIMIT: &[u8] = b"9223372036854775807";
    let full = [record.reports, record.whitelists].iter().filter(|tally| tally.count == i64::MAX).count();
    full > 0 && item.held.windows(LIMIT.len()).filter(|text| *text == LIMIT).count() < full
}

/// Whether a record changed last before `horizon`.
pub(super) fn is_expired(horizon: Option<Timestamp>, record: &Record) -> bool {
    let last = record.last_change();
    horizon.is_some_and(|horizon| last.is_some_and(|last| last < horizon))
}
