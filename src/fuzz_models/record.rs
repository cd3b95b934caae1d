//! Conversion of bytes to records.

use super::FuzzInput;
use crate::record::{Record, Tally, Timestamp};

/// Returns an arbitrary record.
pub(crate) fn any_record(input: &mut FuzzInput<'_>) -> Record {
    let time = |given: bool, input: &mut FuzzInput<'_>| given.then(|| Timestamp::from_micros(input.number()));
    let tally = |input: &mut FuzzInput<'_>| {
        let has = input.byte();
        Tally { count: input.number(), first: time(has & 1 > 0, input), last: time(has & 2 > 0, input) }
    };
    Record { reports: tally(input), whitelists: tally(input) }
}
