//! Times converted to the storage format of each engine and back, in many time zones and around clock changes.

use std::sync::LazyLock;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use pyzord::fuzzing::{through_gdbm, through_mysql, through_redis, through_redis_v0};
use pyzord::record::{Record, Tally, Timestamp};

use crate::cases;

/// Time zones with offsets in whole, half and quarter hours, and with clock changes by half an hour, two hours or a
/// day, in either direction, in the past only, or never.
const ZONES: [&str; 18] = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Moscow",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Caracas",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Pyongyang",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
];

static ALL: LazyLock<Vec<TimeZone>> = LazyLock::new(|| {
    ZONES.iter().map(|name| TimeZone::get(name).unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
});

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;

fn zone() -> impl Strategy<Value = TimeZone> {
    select(ALL.as_slice()).prop_map(|zone: TimeZone| zone)
}

/// A time zone and four times. Half of them are near a clock change, and some are close together.
fn zone_and_moments() -> impl Strategy<Value = (TimeZone, Vec<Timestamp>)> {
    let moment = (-2_000_000_000i64..4_000_000_000, 0..SECOND, any::<bool>(), -3 * HOUR..3 * HOUR);
    let distance = prop::option::weighted(0.3, 0..100 * SECOND);
    (zone(), prop::collection::vec(moment, 4), distance).prop_map(|(zone, moments, distance)| {
        let near = |(second, micros, is_near, distance): (i64, i64, bool, i64)| {
            let start = jiff::Timestamp::from_second(second).unwrap();
            match zone.following(start).next().filter(|_| is_near) {
                Some(change) => Timestamp::from_micros(change.timestamp().as_microsecond() + distance),
                None => Timestamp::from_micros(second * SECOND + micros),
            }
        };
        let mut moments: Vec<Timestamp> = moments.into_iter().map(near).collect();
        if let Some(distance) = distance {
            moments[1] = Timestamp::from_micros(moments[0].micros() + distance);
        }
        (zone, moments)
    })
}

fn record(counts: [i64; 2], moments: &[Timestamp], given: [bool; 4]) -> Record {
    let time = |at: usize| given[at].then(|| moments[at]);
    Record {
        reports: Tally { count: counts[0], first: time(0), last: time(1) },
        whitelists: Tally { count: counts[1], first: time(2), last: time(3) },
    }
}

fn times(record: &Record) -> [Option<Timestamp>; 4] {
    [record.reports.first, record.reports.last, record.whitelists.first, record.whitelists.last]
}

fn counts(record: &Record) -> [i64; 2] {
    [record.reports.count, record.whitelists.count]
}

fn civil(zone: &TimeZone, time: Timestamp) -> DateTime {
    zone.to_datetime(jiff::Timestamp::from_microsecond(time.micros()).unwrap())
}

/// Returns the time read back from a local date: the earlier one if the date is ambiguous.
fn as_local(zone: &TimeZone, time: Timestamp) -> Timestamp {
    let date = civil(zone, time);
    // Tries every offset in force during the 30 hours before.
    let hours_before = |hours| jiff::Timestamp::from_microsecond(time.micros() - hours * HOUR).unwrap();
    let offsets = (0..30).map(|hours| zone.to_offset(hours_before(hours)));
    let earlier = offsets.filter_map(|offset| offset.to_timestamp(date).ok());
    let same = earlier
        .map(|earlier| Timestamp::from_micros(earlier.as_microsecond()))
        .filter(|earlier| civil(zone, *earlier) == date);
    same.chain([time]).min().unwrap()
}

fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_seconds(time.seconds())
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn gdbm_keeps_times_except_in_ambiguous_hours(
        (zone, moments) in zone_and_moments(),
        amounts in any::<[i64; 2]>(),
        given in any::<[bool; 4]>(),
    ) {
        let record = record(amounts, &moments, given);
        let (text, again) = through_gdbm(&zone, &record);
        let again = again.unwrap();
        prop_assert_eq!(counts(&again), counts(&record));
        prop_assert_eq!(times(&again), times(&record).map(|time| time.map(|time| as_local(&zone, time))), "{}", text);
        prop_assert_eq!(through_gdbm(&zone, &again), (text.clone(), Some(again)));
        let fields: Vec<&str> = text.split(',').collect();
        for (time, at) in times(&record).into_iter().zip([2, 3, 5, 6]) {
            let expected = time.map_or("None".to_owned(), |time| {
                let format = if time.micros() % SECOND == 0 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.6f" };
                civil(&zone, time).strftime(format).to_string()
            });
            prop_assert_eq!(fields[at], expected);
        }
    }

    #[test]
    fn redis_v0_keeps_seconds_except_in_ambiguous_hours(
        (zone, moments) in zone_and_moments(),
        amounts in any::<[i64; 2]>(),
        given in any::<[bool; 4]>(),
    ) {
        let record = record(amounts, &moments, given);
        let (text, again) = through_redis_v0(&zone, &record);
        let again = again.unwrap();
        prop_assert_eq!(counts(&again), counts(&record));
        let expected = times(&record).map(|time| time.map(|time| as_local(&zone, whole(time))));
        prop_assert_eq!(times(&again), expected, "{}", text);
        prop_assert_eq!(through_redis_v0(&zone, &again), (text, Some(again)));
    }

    #[test]
    fn local_dates_keep_the_order_of_days(
        (zone, moments) in zone_and_moments(),
        days in 2i64..400,
    ) {
        // Even if the clock was set back by a day.
        let first = moments[0];
        let last = Timestamp::from_micros(first.micros() + days * 24 * HOUR);
        for through in [through_gdbm, through_redis_v0] {
            let again = through(&zone, &record([1, 0], &[first, last, first, last], [true; 4])).1.unwrap();
            prop_assert!(again.reports.first < again.reports.last);
            prop_assert_eq!(again.last_change(), again.whitelists.last);
        }
    }

    #[test]
    fn seconds_of_redis_and_mysql_are_the_same_in_every_zone(
        (_, moments) in zone_and_moments(),
        amounts in [prop_oneof![Just(0), any::<i32>()], prop_oneof![Just(0), any::<i32>()]],
        given in any::<[bool; 4]>(),
    ) {
        let record = record(amounts.map(i64::from), &moments, given);
        let again = through_redis(&record).1.unwrap();
        prop_assert_eq!(counts(&again), counts(&record));
        // In a hash, second 0 means no time.
        let seconds = |time: Option<Timestamp>| time.map(whole).filter(|time| time.seconds() != 0);
        prop_assert_eq!(times(&again), times(&record).map(seconds));

        let again = through_mysql(&record).1.unwrap();
        prop_assert_eq!(counts(&again), counts(&record));
        let seconds = |time: Option<Timestamp>| {
            time.map(|time| Timestamp::from_seconds(time.seconds().clamp(1, i64::from(i32::MAX))))
        };
        for (tally, before) in [(again.reports, record.reports), (again.whitelists, record.whitelists)] {
            // Times of a tally with count 0 are dropped.
            let expected = if tally.count == 0 { (None, None) } else { (seconds(before.first), seconds(before.last)) };
            prop_assert_eq!((tally.first, tally.last), expected);
        }
    }

    #[test]
    fn seconds_are_rounded_down(micros in any::<i64>()) {
        let time = Timestamp::from_micros(micros);
        let start = i128::from(time.seconds()) * i128::from(SECOND);
        prop_assert!((start..start + i128::from(SECOND)).contains(&i128::from(micros)));
        prop_assert_eq!(Timestamp::from_seconds(time.seconds()).seconds(), time.seconds());
    }
}

#[test]
fn zones_have_clock_changes_of_every_kind() {
    let mut widths = std::collections::BTreeSet::new();
    for zone in ALL.iter() {
        let start = jiff::Timestamp::from_second(0).unwrap();
        let mut before = zone.to_offset(start).seconds();
        for change in zone.following(start).take(200) {
            let offset = change.offset().seconds();
            widths.insert(offset - before);
            before = offset;
        }
    }
    for width in [1800, 3600, 7200, 86_400, -1800, -3600, -7200] {
        assert!(widths.contains(&width), "no clock changes by {width} s, but by {widths:?}");
    }
}
