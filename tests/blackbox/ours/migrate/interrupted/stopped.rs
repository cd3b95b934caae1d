//! Migrations that are stopped by a signal, or whose database becomes unavailable.

use std::net::TcpListener;
use std::path::Path;

use nix::sys::signal::Signal;

use super::super::sides::Gdbm;
use super::super::{Place, Record, Side as _, digest};
use super::stores::{Store, fragile_store};
use super::{Run, Scene};
use crate::harness::{Finished, eventually};

/// Number of records; enough to interrupt a migration in the middle.
pub(super) const MANY: u32 = 30_000;

/// Asserts that the run ended with one error line with these texts, and printed its incomplete result.
#[track_caller]
pub(super) fn expect_incomplete(finished: &Finished, about: &[&str]) {
    let errors = finished.stderr.lines().filter(|line| !line.starts_with("pyzor-migrate: note: "));
    let line =
        errors.clone().count() == 1 && errors.clone().all(|line| line.starts_with("pyzor-migrate: error: "));
    let all = about.iter().all(|text| finished.stderr.contains(text));
    let said = finished.stdout.contains("Migration incomplete, ");
    assert!(finished.code == Some(1) && line && all && said, "not about {about:?}: {finished:#?}");
}

fn stops(from: &str, to: &str, signal: Signal, arguments: &[&str]) {
    let scene = Scene::new(from, to, MANY, arguments);
    let mut run = scene.start();
    run.under_way(&*scene.target);
    run.signal(signal);
    let name = signal.as_str().strip_prefix("SIG").unwrap();
    expect_incomplete(&run.finished(), &[&format!("interrupted by {name}")]);
    for side in [&scene.source, &scene.target] {
        let marker = format!("{}.open", side.dsn());
        assert!(!Path::new(&marker).exists(), "{marker} is still there");
    }
    if scene.deletes() {
        scene.expect_union();
    }
    scene.complete();
    scene.expect_done();
}

#[test]
fn term_stops_a_copy_into_a_file_that_is_closed() {
    stops("redis", "gdbm", Signal::SIGTERM, &[]);
}

#[test]
fn int_stops_a_move_out_of_a_file_that_is_closed() {
    stops("gdbm", "redis", Signal::SIGINT, &["--delete"]);
}

#[test]
fn term_stops_a_move_between_files_that_are_closed() {
    stops("gdbm", "gdbm", Signal::SIGTERM, &["--delete"]);
}

#[test]
fn int_stops_a_move_out_of_a_table() {
    stops("mysql", "redis", Signal::SIGINT, &["--delete"]);
}

#[test]
fn stop_before_the_destination_answers_closes_the_source() {
    let place = Place::new();
    let source = Gdbm::new();
    source.plant(&[(&digest(1), Record::reported(1))], "UTC");
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let destination = format!("127.0.0.1,{},,0", silent.local_addr().unwrap().port());
    let (source, marker) = (source.dsn(), format!("{}.open", source.dsn()));
    let arguments = ["--se", "gdbm", "--sd", &source, "--de", "redis", "--dd", &destination, "--delete"];
    let run = Run::start(place.command(&arguments), &place.work());
    eventually("a marker", || Path::new(&marker).exists().then_some(()));
    run.signal(Signal::SIGTERM);
    let finished = run.finished();
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("interrupted by TERM"), "{finished:?}");
    assert!(!Path::new(&marker).exists(), "{marker} is still there");
}

fn survives_the_loss_of_a_database(from: &str, to: &str, loses: fn(&mut Scene) -> &mut Box<dyn Store>) {
    let mut scene = Scene::between(fragile_store(from), fragile_store(to), MANY, &["--delete"]).journalled();
    let mut run = scene.start();
    run.under_way(&*scene.target);
    loses(&mut scene).service().kill();
    expect_incomplete(&run.finished(), &[]);
    loses(&mut scene).restart();
    scene.expect_union();
    scene.complete();
    scene.expect_done();
}

#[test]
fn a_move_survives_the_loss_of_the_redis_that_it_fills() {
    survives_the_loss_of_a_database("gdbm", "redis", |scene| &mut scene.target);
}

#[test]
fn a_move_survives_the_loss_of_the_redis_that_it_empties() {
    survives_the_loss_of_a_database("redis", "gdbm", |scene| &mut scene.source);
}

#[test]
fn a_move_survives_the_loss_of_the_mariadb_that_it_fills() {
    survives_the_loss_of_a_database("redis", "mysql", |scene| &mut scene.target);
}

#[test]
fn a_move_survives_the_loss_of_the_mariadb_that_it_empties() {
    survives_the_loss_of_a_database("mysql", "redis", |scene| &mut scene.source);
}
