//! Times through each engine's form, in many zones and around changes of their clocks.

use std::sync::LazyLock;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;
use pyzord::fuzzing::{through_gdbm, through_mysql, through_redis, through_redis_v0};
use pyzord::record::{Record, Tally, Timestamp};

use crate::cases;

/// Zones of whole, half and quarter hours, of clocks that change by half an hour, two hours or a day, or in the
/// other direction, or no more, or never.
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

/// A zone and moments, half of which are near a change of its clock, and some of which follow each other at once.
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

/// What is left of a moment that was stored as a local date: the earlier one of those that have it.
fn as_local(zone: &TimeZone, time: Timestamp) -> Timestamp {
    let date = civil(zone, time);
    // By every offset that was in force shortly before.
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
    fn a_local_date_of_gdbm_is_the_same_moment_but_for_the_hour_that_comes_twice(
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
    fn a_local_date_of_redis_v0_is_the_same_second_but_for_the_hour_that_comes_twice(
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
    fn days_that_follow_each_other_do_so_in_local_dates(
        (zone, moments) in zone_and_moments(),
        days in 2i64..400,
    ) {
        // Even where a clock was set back by a day.
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
        // Second 0 is how a hash says that there is none.
        let seconds = |time: Option<Timestamp>| time.map(whole).filter(|time| time.seconds() != 0);
        prop_assert_eq!(times(&again), times(&record).map(seconds));

        let again = through_mysql(&record).1.unwrap();
        prop_assert_eq!(counts(&again), counts(&record));
        let seconds = |time: Option<Timestamp>| {
            time.map(|time| Timestamp::from_seconds(time.seconds().clamp(1, i64::from(i32::MAX))))
        };
        for (tally, before) in [(again.reports, record.reports), (again.whitelists, record.whitelists)] {
            // The times of a count of 0 are none of anything.
            let expected = if tally.count == 0 { (None, None) } else { (seconds(before.first), seconds(before.last)) };
            prop_assert_eq!((tally.first, tally.last), expected);
        }
    }

    #[test]
    fn a_second_is_cut_off_towards_the_past(micros in any::<i64>()) {
        let time = Timestamp::from_micros(micros);
        let start = i128::from(time.seconds()) * i128::from(SECOND);
        prop_assert!((start..start + i128::from(SECOND)).contains(&i128::from(micros)));
        prop_assert_eq!(Timestamp::from_seconds(time.seconds()).seconds(), time.seconds());
    }
}

#[test]
fn the_zones_have_changes_of_every_kind() {
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
