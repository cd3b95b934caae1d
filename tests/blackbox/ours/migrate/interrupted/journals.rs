//! Journals: the migration they belong to, locks, corrupt files, and removal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::stores::{Gdbm, Store, store};
use super::{Reporter, Run, Scene, program, records};
use crate::harness::Finished;

const SOME: u32 = 3000;
/// Number of records; enough to interrupt a migration in the middle.
const MANY: u32 = 30_000;

/// Whether the run was refused with one line that contains these texts.
fn is_refusal(finished: &Finished, texts: &[&str]) -> bool {
    let line = finished.stderr.lines().count() == 1 && finished.stderr.starts_with("pyzor-migrate: error: ");
    finished.code == Some(1) && line && texts.iter().all(|text| finished.stderr.contains(text))
}

#[track_caller]
fn expect_refusal(finished: &Finished, texts: &[&str]) {
    assert!(is_refusal(finished, texts), "no line with {texts:?}: {finished:#?}");
}

/// Returns all files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(|entry| below(entry.unwrap().path())).collect()
}

#[test]
fn journal_is_for_one_run_at_a_time() {
    let scene = Scene::new("redis", "redis", MANY, &["--merge"]).journalled();
    let mut first = scene.start();
    first.under_way(&*scene.target);
    first.signal(Signal::SIGSTOP);
    let elsewhere = tempfile::tempdir().unwrap();
    // Another destination: into the same one, the second run would wait.
    let other = store("redis");
    let mut command = Command::new(program());
    command.args(["--se", "redis", "--sd", &scene.source.dsn(), "--merge", "--journal"]).arg(scene.journal());
    command.args(["--de", "redis", "--dd", &other.dsn()]);
    scene.surround(&mut command);
    let second = Run::start(command, elsewhere.path()).finished();
    assert!(!first.has_ended());
    first.signal(Signal::SIGCONT);
    expect_refusal(&second, &[&scene.journal().display().to_string(), "in use by another run"]);
    assert_eq!(first.finished().code, Some(0));
    scene.expect_done();
}

#[test]
fn journal_of_another_migration_is_refused_and_stays_usable() {
    let scene = Scene::new("redis", "gdbm", SOME, &[]).merging().journalled();
    scene.complete();
    let other = store("redis");
    other.add(&records(0..10));
    let finished =
        Run::start(scene.command_from(other.engine(), &other.dsn()), scene.directory.path()).finished();
    expect_refusal(&finished, &[&scene.journal().display().to_string()]);
    scene.expect_done();
    scene.complete();
    scene.expect_done();
}

#[test]
fn corrupt_or_foreign_journal_is_refused_and_not_changed() {
    let scene = Scene::new("redis", "redis", SOME, &[]).merging().journalled();
    let journal = scene.journal();
    let before = scene.target.read();
    scene.complete();
    let sound = fs::read(&journal).unwrap();
    let after = scene.target.read();
    assert!(before != after);
    let (half, mut beheaded, mut scribbled) =
        (sound[..sound.len() / 2].to_vec(), sound.clone(), sound.clone());
    beheaded[..512].fill(0);
    scribbled[4096..].fill(b'x');
    let other = Gdbm::new();
    other.add(&records(0..10));
    let foreign = fs::read(other.path()).unwrap();
    let mut complaints = Vec::new();
    for (what, content) in [
        ("a text", b"Dear diary,\n".to_vec()),
        ("zeros", vec![0; 65_536]),
        ("a gdbm file", foreign),
        ("a half", half),
        ("one without its beginning", beheaded),
        ("one that was written over", scribbled),
    ] {
        fs::write(&journal, &content).unwrap();
        let finished = scene.run();
        if !is_refusal(&finished, &[&journal.display().to_string()]) {
            complaints.push(format!("{what} is not refused in one line: {finished:#?}"));
        }
        if fs::read(&journal).unwrap() != content {
            complaints.push(format!("{what} was changed"));
        }
        if scene.target.read() != after {
            complaints.push(format!("something was added with {what}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    expect_refusal(&scene.run(), &[&journal.display().to_string()]);
    assert!(scene.target.read() == after, "something was added");
}

/// Records that were moved and then reported again are added, with the default journal.
fn keeps_a_journal_of_its_own_until_complete(from: &str, to: &str) {
    let scene = Scene::new(from, to, MANY, &["--delete"]);
    let mut run = scene.start();
    while scene.source.count() == MANY as usize {
        assert!(!run.has_ended(), "{:#?}", run.said(None));
    }
    assert!(!run.has_ended(), "the migration ended too early to be interrupted: {:#?}", run.said(None));
    drop(run);
    let journals = files(&scene.state());
    assert_eq!(journals.len(), 1, "{journals:?}");
    // A run without this journal would replace the moved records or add them again.
    let before = scene.target.read();
    for other in [&["--quiet"][..], &["--merge", "--journal", "other"], &["--delete", "--journal", "other"]] {
        let mut command = Command::new(program());
        command.args(["--se", from, "--sd", &scene.source.dsn()]).args(other);
        command.args(["--de", to, "--dd", &scene.target.dsn()]);
        scene.surround(&mut command);
        let refused = Run::start(command, scene.directory.path()).finished();
        expect_refusal(&refused, &["was interrupted", &journals[0].display().to_string()]);
    }
    assert!(scene.target.read() == before, "something was moved");
    scene.expect_union();
    let server = scene.source.home().start();
    let mut reporter = Reporter::to(server.port(), MANY);
    (0..1000).for_each(|_| reporter.count());
    scene.counted.lock().unwrap().add(&reporter.counted);
    assert!(server.stop().success());
    scene.complete();
    scene.expect_done();
    assert_eq!(files(&scene.state()), Vec::<PathBuf>::new());
}

#[test]
fn a_move_out_of_redis_keeps_a_journal_until_it_is_complete() {
    keeps_a_journal_of_its_own_until_complete("redis", "gdbm");
}

#[test]
fn a_move_out_of_a_table_keeps_a_journal_until_it_is_complete() {
    keeps_a_journal_of_its_own_until_complete("mysql", "redis");
}

/// Deleted records are still in the file until their space is reused, and a repair restores those that it finds.
#[test]
fn records_restored_by_a_repair_are_not_added_again() {
    let source = Gdbm::new();
    let marker = source.marker();
    let scene = Scene::between(Box::new(source), store("redis"), 30, &["--delete"]).journalled();
    scene.complete();
    // The same digests again, as new records, which are moved, too.
    let server = scene.source.home().start();
    let mut reporter = Reporter::to(server.port(), 30);
    (0..300).for_each(|_| reporter.count());
    scene.counted.lock().unwrap().add(&reporter.counted);
    assert!(server.stop().success());
    scene.complete();
    scene.expect_done();
    // As after a kill of the process that had the file open.
    fs::write(marker, "").unwrap();
    scene.complete();
    scene.expect_done();
}
