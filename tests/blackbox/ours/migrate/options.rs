//! The command line, progress and results.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::sides::{Gdbm, Hashes, MySql, Texts};
use super::{Content, PASSWORD, Place, Record, Side, Summary, digest, snapshot};
use crate::harness::{Finished, run};

/// A gdbm file with one record, and the path of another.
fn files() -> (Gdbm, Gdbm, Content) {
    let (source, destination) = (Gdbm::new(), Gdbm::new());
    let digest = digest(1);
    let records = [(digest.as_str(), Record::full(5))];
    source.plant(&records, "UTC");
    let content = destination.showing(&records, "UTC");
    (source, destination, content)
}

/// Asserts that the command line was refused with one error line that contains this text, and with exit code 2 (or 1 if
/// a bad value may be found late).
#[track_caller]
fn expect_misuse(finished: &Finished, codes: &[i32], text: &str) {
    let errors: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert!(
        errors.len() == 1
            && errors[0].contains(text)
            && finished.code.is_some_and(|code| codes.contains(&code)),
        "expected one of the exit codes {codes:?} and {text:?}: {finished:?}"
    );
    assert!(finished.stdout.is_empty(), "{finished:?}");
}

#[test]
fn missing_option_has_the_established_message() {
    let (source, destination, _) = files();
    let place = Place::new();
    let (from, to) = (source.dsn(), destination.dsn());
    let pairs = [["--se", "gdbm"], ["--sd", &from], ["--de", "gdbm"], ["--dd", &to]];
    for missing in 0..4 {
        let given: Vec<&str> = (0..4).filter(|at| *at != missing).flat_map(|at| pairs[at]).collect();
        let finished = place.run(&given);
        assert_eq!(finished.stdout, "options --se/--sd/--de/--dd are required\n", "{finished:?}");
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(1), ""));
    }
    let finished = place.run(&[]);
    assert_eq!(finished.stdout, "options --se/--sd/--de/--dd are required\n", "{finished:?}");
    assert_eq!(finished.code, Some(1));
    assert!(!destination.is_there());
}

#[test]
fn unsupported_engine_has_the_established_message() {
    let (source, destination, _) = files();
    let place = Place::new();
    let (from, to) = (source.dsn(), destination.dsn());
    for (from_engine, to_engine, said) in [
        ("foo", "gdbm", "Unsupported source engine: foo (supported: gdbm, mysql, redis, redis_v0)\n"),
        ("gdbm", "foo", "Unsupported destination engine: foo (supported: gdbm, mysql, redis, redis_v0)\n"),
        ("foo", "bar", "Unsupported source engine: foo (supported: gdbm, mysql, redis, redis_v0)\n"),
        ("GDBM", "gdbm", "Unsupported source engine: GDBM (supported: gdbm, mysql, redis, redis_v0)\n"),
        (
            "gdbm",
            "redis_v1",
            "Unsupported destination engine: redis_v1 (supported: gdbm, mysql, redis, redis_v0)\n",
        ),
    ] {
        let finished = place.run(&["--se", from_engine, "--sd", &from, "--de", to_engine, "--dd", &to]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), said), "{finished:?}");
    }
    assert!(!destination.is_there());
}

#[test]
fn options_may_be_abbreviated_and_written_in_both_forms() {
    for arguments in [
        &["--se", "gdbm", "--sd", "FROM", "--de", "gdbm", "--dd", "TO"][..],
        &["--se=gdbm", "--sd=FROM", "--de=gdbm", "--dd=TO"],
        &[
            "--source-engine",
            "gdbm",
            "--source-dsn",
            "FROM",
            "--destination-engine",
            "gdbm",
            "--destination-dsn",
            "TO",
        ],
        &["--source-engine=gdbm", "--source-dsn=FROM", "--destination-engine=gdbm", "--destination-dsn=TO"],
        &["--source-e=gdbm", "--source-d", "FROM", "--destination-e", "gdbm", "--destination-d=TO"],
        // The last of repeated options wins.
        &[
            "--se=mysql",
            "--se=gdbm",
            "--sd=FROM",
            "--de=redis",
            "--de=gdbm",
            "--dd=nowhere/at/all",
            "--dd=TO",
        ],
        &["--se=gdbm", "--sd=FROM", "--de=gdbm", "--dd=TO", "-q"],
        &["--se=gdbm", "--sd=FROM", "--de=gdbm", "--dd=TO", "--qui"],
        &["--se=gdbm", "--sd=FROM", "--de=gdbm", "--dd=TO", "--cleanup-age", "2000000000"],
    ] {
        let (source, destination, content) = files();
        let (from, to) = (source.dsn(), destination.dsn());
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace("FROM", &from).replace("TO", &to)).collect();
        let finished = Place::new().run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        finished.expect_plain(&destination, 1);
        destination.expect_when(&format!("{arguments:?}"), &content);
    }
}

#[test]
fn misuse_of_the_command_line_is_refused() {
    let (source, destination, _) = files();
    let place = Place::new();
    for (options, text) in [
        (&["--nosuch"][..], "no such option: --nosuch"),
        (&["-x"], "no such option: -x"),
        (&["--cleanup-age", "soon"], "'soon'"),
        (&["--cleanup-age=1.5"], "'1.5'"),
        (&["--cleanup-age"], "--cleanup-age"),
        (&["--cleanup-age", "-1"], "cleanup-age"),
        (&["--destination"], "ambiguous option: --destination"),
        (&["--source=x"], "ambiguous option: --source"),
        (&["--merge"], "--journal"),
        (&["--journal"], "--journal"),
        (&["--delete=yes"], "--delete"),
        // A dry run writes nothing that could be compared.
        (&["--dry-run", "--verify"], "--dry-run"),
    ] {
        let finished = place.migrate(&source, &destination, options);
        expect_misuse(&finished, &[2], text);
        assert!(!destination.is_there(), "{options:?}");
    }
}

#[test]
fn help_and_version_are_printed() {
    let place = Place::new();
    for option in ["-h", "--help"] {
        let finished = place.run(&[option]);
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
        for option in [
            "--se",
            "--source-engine",
            "--sd",
            "--source-dsn",
            "--de",
            "--destination-engine",
            "--dd",
            "--destination-dsn",
            "--delete",
            "--merge",
            "--journal",
            "--cleanup-age",
            "--verify",
            "--verify-only",
            "--dry-run",
            "-q",
            "--quiet",
            "-h",
            "--help",
            "--version",
        ] {
            let is_option = |word: &str| word.split(['=', ',', '[', ']']).any(|part| part == option);
            assert!(finished.stdout.split_whitespace().any(is_option), "{option}: {}", finished.stdout);
        }
    }
    let finished = place.run(&["--version"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    assert!(finished.stdout.contains(env!("CARGO_PKG_VERSION")), "{finished:?}");
}

#[test]
fn a_dsn_may_be_the_first_line_of_a_file() {
    let place = Place::new();
    let (source, destination) = (Hashes::new(), MySql::new());
    let digest = digest(1);
    let records = [(digest.as_str(), Record::full(5))];
    source.plant(&records, "UTC");
    for end in ["", "\n", "\nanother line\n", "\r\n"] {
        destination.sql("DELETE FROM digests");
        place.file("from", format!("{}{end}", source.dsn()));
        place.file("to", format!("{}{end}", destination.dsn()));
        let finished =
            place.run(&["--se", "redis", "--sd", "@from", "--de", "mysql", "--destination-dsn=@./to"]);
        finished.expect_plain(&destination, 1);
        destination.expect_when(&format!("{end:?}"), &destination.showing(&records, "UTC"));
    }
    // A relative path in the file is relative to the working directory, not to the file.
    let (source, destination, content) = files();
    place.file("to", destination.dsn());
    fs::copy(source.path(), place.work().join("copy.db")).unwrap();
    fs::create_dir(place.work().join("below")).unwrap();
    place.file("below/from", "copy.db");
    place
        .run(&["--se", "gdbm", "--sd", "@below/from", "--de", "gdbm", "--dd", "@to"])
        .expect_plain(&destination, 1);
    destination.expect(&content);
}

#[test]
fn file_without_a_dsn_is_refused() {
    let place = Place::new();
    let (_, destination, _) = files();
    place.file("empty", "");
    place.file("blank", format!("\n{PASSWORD}\n"));
    place.file("binary", b"\xff\xfe\n");
    fs::create_dir(place.work().join("directory")).unwrap();
    for (name, text) in [
        ("missing", "missing"),
        ("empty", "empty"),
        ("blank", "empty"),
        ("directory", "directory"),
        ("binary", "binary"),
        ("", ""),
    ] {
        for options in [
            [
                "--se=redis".to_owned(),
                format!("--sd=@{name}"),
                "--de=gdbm".to_owned(),
                format!("--dd={}", destination.dsn()),
            ],
            [
                "--se=gdbm".to_owned(),
                format!("--sd={}", destination.dsn()),
                "--de=mysql".to_owned(),
                format!("--dd=@{name}"),
            ],
        ] {
            let finished = place.run(&options.each_ref().map(String::as_str));
            expect_misuse(&finished, &[1, 2], text);
        }
    }
    assert!(!destination.is_there());
}

#[test]
fn unreadable_file_for_a_dsn_is_refused() {
    let place = Place::new().unprivileged();
    place.file("from", PASSWORD);
    fs::set_permissions(place.work().join("from"), fs::Permissions::from_mode(0o0)).unwrap();
    let finished = place.run(&["--se=redis", "--sd=@from", "--de=gdbm", "--dd=new.db"]);
    expect_misuse(&finished, &[1, 2], "ermission denied");
    assert!(!place.work().join("new.db").exists());
}

#[test]
fn path_may_be_relative_or_begin_with_a_tilde() {
    let (source, destination, content) = files();
    let place = Place::new();
    fs::copy(source.path(), place.work().join("here.db")).unwrap();
    fs::copy(source.path(), place.home().join("there.db")).unwrap();
    for (number, from) in ["here.db", "./here.db", "../place/here.db", "~/there.db"].into_iter().enumerate() {
        let to = format!("new{number}.db");
        place.run(&["--se=gdbm", "--sd", from, "--de=gdbm", "--dd", &to]).expect_plain(&destination, 1);
        fs::copy(place.work().join(to), destination.path()).unwrap();
        destination.expect_when(from, &content);
    }
    place.run(&["--se=gdbm", "--sd=here.db", "--de=gdbm", "--dd=~/new.db"]).expect_plain(&destination, 1);
    assert!(place.home().join("new.db").exists());
}

/// Returns the output without the last line, which gives the elapsed time and the rate.
#[track_caller]
fn without_rate(said: &str) -> String {
    let (rest, rate) = said.trim_end().rsplit_once('\n').unwrap();
    super::expect_rate(rate);
    format!("{rest}\n")
}

#[test]
fn progress_is_printed_every_100000_records_unless_quiet() {
    const COUNT: u32 = 200_000;
    let (source, destination) = (Gdbm::new(), Gdbm::new());
    let raw = source.raw(&Record::full(5), "UTC");
    let records: Vec<_> = (0..COUNT).map(|number| (digest(number).into_bytes(), raw.clone())).collect();
    source.put(&records);
    let finished = Place::new().migrate(&source, &destination, &[]);
    let closing = "Migration complete, 200000 records transferred successfully, 0 records failed\n";
    let lines = "100000 records transferred...\n200000 records transferred...\n";
    assert_eq!(without_rate(&finished.stdout), format!("{lines}{closing}"));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    assert!(destination.home().database().read() == source.home().database().read(), "they differ");

    let finished = Place::new().migrate(&source, &destination, &["--quiet"]);
    assert_eq!((finished.stdout.as_str(), finished.code), (closing, Some(0)), "{finished:?}");
    assert_eq!(finished.stderr, "");
    on_a_terminal(&source, &destination, "", |shown, stdout| {
        assert_eq!(without_rate(stdout), closing);
        // The bar moves.
        assert!(shown.contains('\r') || shown.contains('\x1b'), "{shown:?}");
        assert!(shown.contains("200000") || shown.contains("200,000"), "{shown:?}");
    });
}

#[test]
fn quiet_run_shows_no_bar_on_a_terminal() {
    let (source, destination, content) = files();
    on_a_terminal(&source, &destination, "--quiet", |shown, stdout| {
        let closing = "Migration complete, 1 records transferred successfully, 0 records failed\n";
        assert_eq!((stdout, shown), (closing, ""));
    });
    destination.expect(&content);
}

/// Runs a migration with a terminal as standard error, and checks both outputs.
fn on_a_terminal(source: &Gdbm, destination: &Gdbm, option: &str, examine: impl Fn(&str, &str)) {
    let place = Place::new();
    let program = env!("CARGO_BIN_EXE_pyzor-migrate");
    let (from, to) = (source.dsn(), destination.dsn());
    let line = format!("{program} --se gdbm --sd {from} --de gdbm --dd {to} {option} >out");
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(place.work());
    script.env("TZ", "UTC").env("TERM", "xterm").env("XDG_STATE_HOME", place.state());
    let shown = run(&mut script, b"");
    assert!(shown.status.success(), "{shown:?}");
    let stdout = fs::read_to_string(place.work().join("out")).unwrap();
    examine(&String::from_utf8_lossy(&shown.stdout), &stdout);
}

#[test]
fn quiet_run_prints_failures_and_closing_lines() {
    let (source, destination, content) = files();
    source.put(&[(digest(2).into_bytes(), b"garbage".to_vec()), (b"junk".to_vec(), b"junk".to_vec())]);
    let summary = Place::new().migrate(&source, &destination, &["--quiet"]).migrated();
    let expected =
        Summary { complete: Some((1, 1)), named: [digest(2)].into(), skipped: 1, ..Summary::default() };
    assert_eq!(summary, expected);
    destination.expect(&content);
}

#[test]
fn failed_records_are_reported_by_key() {
    let (source, destination, _) = files();
    let keys = [digest(2), digest(3).to_uppercase(), format!("b'{}'", digest(4))];
    for key in &keys {
        source.put(&[(key.clone().into_bytes(), b"garbage".to_vec())]);
    }
    let finished = Place::new().migrate(&source, &destination, &[]);
    for key in &keys {
        let line = format!("Record {key} failed: ");
        assert!(finished.stdout.lines().any(|said| said.starts_with(&line)), "{key}: {finished:?}");
    }
    assert_eq!(without_rate(&finished.stdout).lines().count(), 4, "{finished:?}");
}

#[test]
fn an_empty_source_is_migrated() {
    let sides: [(Box<dyn Side>, Box<dyn Side>); 4] = [
        (Box::new(Gdbm::new()), Box::new(Hashes::new())),
        (Box::new(Hashes::new()), Box::new(MySql::new())),
        (Box::new(Texts::new()), Box::new(Gdbm::new())),
        (Box::new(MySql::new()), Box::new(Texts::new())),
    ];
    for (source, destination) in sides {
        // The database of the other option exists.
        source.put(&[(digest(1).into_bytes(), source.raw(&Record::full(1), "UTC"))]);
        let place = Place::new();
        let other = Gdbm::new();
        place.migrate(&*source, &other, &["--delete"]).migrated();
        assert_eq!(source.all(), Content::new());
        place.migrate(&*source, &*destination, &[]).expect_plain(&*destination, 0);
        assert_eq!(destination.all(), Content::new());
    }
}

/// Malformed DSNs by engine.
fn malformed() -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for engine in ["redis", "redis_v0"] {
        all.extend([
            (engine, format!("localhost,6379,{PASSWORD}")),
            (engine, format!("localhost,port,{PASSWORD},0")),
            (engine, format!("localhost,6379,{PASSWORD},zero")),
            (engine, format!("redis://:{PASSWORD}@localhost:port/0")),
            (engine, format!("redis://:{PASSWORD}@localhost/zero")),
            (engine, format!("redis://:{PASSWORD}@localhost/0?{PASSWORD}=1")),
            (engine, format!("http://:{PASSWORD}@localhost/0")),
        ]);
    }
    all.extend([
        ("mysql", format!("localhost,pyzor,{PASSWORD},pyzor")),
        ("mysql", format!("localhost,pyzor,{PASSWORD},pyzor,digests,more")),
        ("mysql", format!("localhost,pyzor,{PASSWORD},pyzor,")),
        ("mysql", format!("mysql://pyzor:{PASSWORD}@localhost/pyzor")),
        ("mysql", format!("mysql://pyzor:{PASSWORD}@localhost/pyzor/digests?{PASSWORD}=1")),
        ("mysql", format!("postgres://pyzor:{PASSWORD}@localhost/pyzor/digests")),
    ]);
    all
}

#[test]
fn malformed_dsn_is_reported_in_one_line_with_its_option() {
    let (source, destination, _) = files();
    let place = Place::new();
    let files = snapshot(place.directory.path());
    for (engine, dsn) in malformed() {
        let finished = place.run(&["--se", engine, "--sd", &dsn, "--de=gdbm", "--dd", &destination.dsn()]);
        expect_misuse(&finished, &[1, 2], "source");
        let finished = place.run(&["--se=gdbm", "--sd", &source.dsn(), "--de", engine, "--dd", &dsn]);
        expect_misuse(&finished, &[1, 2], "destination");
    }
    assert!(!destination.is_there());
    assert_eq!(snapshot(place.directory.path()), files);
}
