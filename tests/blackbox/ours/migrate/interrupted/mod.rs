//! Migrations that are interrupted while a server counts into the source: nothing is lost, nothing is counted twice, and
//! another run completes the migration.
//!
//! `PYZORD_KILLS` is the number of kills for each pair of engines, and `PYZORD_KILL_RECORDS` the number of records that
//! each killed migration has to move.

mod cluster;
mod counted;
mod journals;
mod masters;
mod mounts;
mod proxy;
mod run;
mod scene;
mod slots;
mod stopped;
mod stores;
mod traffic;
mod twice;

use std::thread;
use std::time::{Duration, Instant};

use counted::{Content, Tally};
use run::Run;
use scene::{Scene, program};
use sha1::Digest as _;
use traffic::{Dice, Reporter, Traffic, count_alone};

const CALLERS: u64 = 2;

/// The time of the first record.
const THEN: i64 = 1_700_000_000;

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

fn kills() -> u32 {
    number("PYZORD_KILLS", 2)
}

/// Returns the number of records that each killed migration has to move.
fn to_move() -> u32 {
    number("PYZORD_KILL_RECORDS", 5_000)
}

/// Returns a different digest for each number, spread over the key space.
fn digest(number: u32) -> String {
    sha1::Sha1::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns records for these numbers: a third only reported, a third only whitelisted, a third both.
fn records(numbers: impl Iterator<Item = u32>) -> Content {
    let record = |number: u32| {
        let first = THEN + i64::from(number);
        let tally = Tally { count: i64::from(number % 5) + 1, first: Some(first), last: Some(first + 1000) };
        let none = Tally::default();
        let tallies = match number % 3 {
            0 => [tally, none],
            1 => [none, tally],
            _ => [tally, Tally { count: tally.count + 1, ..tally }],
        };
        (digest(number), tallies)
    };
    numbers.map(record).collect()
}

/// The results of the killed migrations of a test.
#[derive(Default)]
struct Seen {
    /// Number of migrations that ended before the kill.
    late: u32,
    /// The time of each kill in milliseconds, and the number of records in the destination then.
    kills: Vec<(u64, usize)>,
}

/// Kills migrations at random moments, and checks after each kill that nothing is lost. `whole` is the duration of a
/// migration without a server.
fn kill_at_random(scene: &Scene, traffic: &Traffic, whole: Duration) -> Seen {
    let mut dice = Dice::new();
    let mut seen = Seen::default();
    for _ in 0..kills() {
        if !scene.source.is_shared() {
            count_alone(scene, 100);
        }
        traffic.pause(|| scene.fill(to_move()));
        let mut run = scene.start();
        let mut delay = dice.throw(whole.as_micros().try_into().unwrap());
        if scene.source.is_shared() && dice.throw(3) == 0 {
            // While a server counts, the source is scanned several times.
            delay += dice.throw(4_000_000);
        }
        thread::sleep(Duration::from_micros(delay));
        seen.late += u32::from(run.has_ended());
        drop(run);
        seen.kills.push((delay / 1000, traffic.pause(|| scene.expect_union())));
    }
    seen
}

fn survives_kills(scene: &Scene) {
    let start = Instant::now();
    scene.complete();
    let whole = start.elapsed();
    scene.expect_done();
    let traffic = Traffic::default();
    let seen = if scene.source.is_shared() {
        let server = scene.source.home().start();
        let seen = thread::scope(|scope| {
            let _ends = traffic.over.set_on_drop();
            let (traffic, port) = (&traffic, server.port());
            for _ in 0..CALLERS {
                scope.spawn(move || traffic.flow(port, scene));
            }
            kill_at_random(scene, traffic, whole)
        });
        assert!(server.stop().success());
        seen
    } else {
        let seen = kill_at_random(scene, &traffic, whole);
        count_alone(scene, 100);
        seen
    };
    scene.complete();
    scene.expect_done();
    // Another run changes nothing.
    scene.complete();
    scene.expect_done();
    let counted = scene.counted.lock().unwrap();
    println!(
        "{} to {} {}: kills (milliseconds, records in the destination): {:?}; {} too late; a \
         run without a kill took {} ms; at the end {} digests with {} reports and whitelistings",
        scene.source.engine(),
        scene.target.engine(),
        scene.arguments[0],
        seen.kills,
        seen.late,
        whole.as_millis(),
        counted.digests(),
        counted.total()
    );
}

/// Defines the tests of each pair.
macro_rules! pairs {
    ($($moving:ident, $merging:ident: $from:literal to $to:literal;)*) => { $(
        #[test]
        fn $moving() {
            survives_kills(&Scene::new($from, $to, to_move(), &["--delete"]).journalled());
        }

        #[test]
        fn $merging() {
            survives_kills(&Scene::new($from, $to, to_move(), &[]).merging().journalled());
        }
    )* };
}

pairs! {
    moving_from_gdbm_to_redis_survives_kills, merging_gdbm_into_redis_survives_kills: "gdbm" to "redis";
    moving_from_redis_to_gdbm_survives_kills, merging_redis_into_gdbm_survives_kills: "redis" to "gdbm";
    moving_from_redis_to_mysql_survives_kills, merging_redis_into_mysql_survives_kills: "redis" to "mysql";
    moving_from_mysql_to_redis_survives_kills, merging_mysql_into_redis_survives_kills: "mysql" to "redis";
    moving_from_mysql_to_gdbm_survives_kills, merging_mysql_into_gdbm_survives_kills: "mysql" to "gdbm";
    moving_from_gdbm_to_gdbm_survives_kills, merging_gdbm_into_gdbm_survives_kills: "gdbm" to "gdbm";
    moving_from_texts_to_redis_survives_kills, merging_texts_into_redis_survives_kills: "redis_v0" to "redis";
}

#[test]
fn merging_two_databases_into_one_survives_kills() {
    survives_kills(&Scene::new("redis", "mysql", to_move(), &["--delete"]).merging().journalled());
}

#[test]
fn records_that_keep_changing_are_left_to_a_later_run() {
    let scene = Scene::new("redis", "gdbm", 1000, &["--delete"]).journalled();
    let server = scene.source.home().start();
    let traffic = Traffic::default();
    thread::scope(|scope| {
        let _ends = traffic.over.set_on_drop();
        let (traffic, scene, port) = (&traffic, &scene, server.port());
        scope.spawn(move || traffic.flow(port, scene));
        let finished = scene.run();
        let said = finished.stdout.contains(" 0 records failed\n")
            && finished.stdout.contains(" left in the source because ");
        assert!(finished.code == Some(1) && said, "{finished:#?}");
        traffic.pause(|| scene.expect_union());
    });
    assert!(server.stop().success());
    scene.complete();
    scene.expect_done();
}
