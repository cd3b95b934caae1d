//! Prints the tables of results.

use std::thread;
use std::time::Duration;

use crate::PAIRS;
use crate::arena::Arena;
use crate::migration::{Migration, PeakMemory};
use crate::reference::{Reference, Way};

pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

pub(crate) fn print(
    arena: &Arena,
    rounds: u32,
    references: &[(Reference, Duration)],
    migrations: Vec<Vec<Migration>>,
) {
    let speed = |time: Duration| (f64::from(arena.records) / seconds(time)).round();
    println!("{} records, medians of {rounds} rounds, {} processors\n", arena.records, processors());
    println!("| engine | its own program | seconds | records/s |\n| --- | --- | ---: | ---: |");
    for (reference, time) in references {
        println!("| {} | {} | {:.2} | {} |", reference.engine, reference.name, seconds(*time), speed(*time));
    }
    println!(
        "\n| from | to | seconds | records/s | slower side | its records/s | ratio | ratio to its fastest | \
         peak MiB | without files |\n\
         | --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for ((from, to), results) in PAIRS.into_iter().zip(migrations) {
        let peak = |size: fn(&PeakMemory) -> u64| {
            results.iter().map(|result| size(&result.memory)).max().unwrap_or(0)
        };
        let [all, own] = [peak(|memory| memory.all), peak(|memory| memory.own)];
        let time = median(results.into_iter().map(|result| result.time).collect());
        let slower = |usual_only: bool| {
            let best = |engine: &str, way: Way| {
                let of_side = references.iter().filter(|(reference, _)| {
                    reference.engine == engine && reference.way == way && (reference.is_usual || !usual_only)
                });
                of_side.min_by_key(|(_, time)| *time).unwrap()
            };
            let (source, destination) = (best(from, Way::Out), best(to, Way::In));
            if source.1 > destination.1 { source } else { destination }
        };
        let ((reference, usual), (_, fastest)) = (slower(true), slower(false));
        println!(
            "| {from} | {to} | {:.2} | {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.1} |",
            seconds(time),
            speed(time),
            reference.name,
            speed(*usual),
            seconds(*usual) / seconds(time),
            seconds(*fastest) / seconds(time),
            all as f64 / 1024.0,
            own as f64 / 1024.0
        );
    }
}

pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(0, usize::from)
}
