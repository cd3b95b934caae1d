//! Durations of starts after a kill. They are printed and not compared.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{REPAIRED, owe_repair};
use crate::harness::{Home, digest, finish};

const ROUNDS: usize = 5;

/// Writes records whose digests are spread over the file like real ones.
const WRITE: &str = "
import dbm.gnu, hashlib, sys
with dbm.gnu.open(sys.argv[1], 'nf', 0o600) as database:
    for number in range(int(sys.argv[2])):
        key = hashlib.sha1(str(number).encode()).hexdigest()
        text = '1,%d,2026-11-01 10:00:00.123456,2026-11-20 10:00:00.123456,0,None,None' % (number % 50 + 1)
        database[key] = text
";

#[test]
fn repair_is_timed_beside_one_of_the_library_alone() {
    let records = std::env::var("PYZORD_REPAIR_RECORDS").unwrap_or_else(|_| "3000".to_owned());
    let home = Home::open();
    let database = home.path("pyzord.db");
    let closed = home.parent().join("closed.db");
    let mut python = Command::new("/usr/bin/python3");
    assert!(python.args(["-c", WRITE]).arg(&closed).arg(&records).status().unwrap().success());
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        times[0].push(library_alone(&closed, &home.parent().join("library.db")));
        fs::copy(&closed, &database).unwrap();
        owe_repair(&database);
        let logged = home.log().len();
        times[1].push(start(&home));
        assert_eq!(home.log()[logged..].matches(REPAIRED).count(), 1, "{}", home.log());
        // One change, so that the file has its tail, and a kill after it.
        assert_eq!(home.caller().answered("report", &[&digest(1)]).code(), 200);
        home.daemon().signal(Signal::SIGKILL);
        home.daemon().ended();
        let logged = home.log().len();
        times[2].push(start(&home));
        assert!(!home.log()[logged..].contains(REPAIRED), "{}", home.log());
        home.daemon().stop();
        times[3].push(start(&home));
        home.daemon().stop();
    }
    let [library, repair, kill, clean] = times.map(median);
    println!(
        "{records} records: the library's recovery alone {library:.3} s, a start that repairs {repair:.3} s, a start \
         after a kill outside a change {kill:.3} s, after a clean stop {clean:.3} s (medians of {ROUNDS})"
    );
}

/// Returns the duration of the library's recovery on a copy of a file.
fn library_alone(closed: &Path, copy: &Path) -> Duration {
    fs::copy(closed, copy).unwrap();
    let start = Instant::now();
    let mut tool = Command::new("gdbmtool");
    let tool = tool.arg("-q").arg("-N").arg(copy).args(["recover", "force"]);
    assert!(tool.stdout(Stdio::null()).status().unwrap().success());
    start.elapsed()
}

/// Returns the duration of a start, until the server is in the background and serves requests.
fn start(home: &Home) -> Duration {
    let start = Instant::now();
    let finished = finish(home.detached());
    let elapsed = start.elapsed();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    elapsed
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}
