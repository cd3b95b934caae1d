//! Tests of pyzor-migrate: the records that arrive, the output, and the files and records that it must not touch.
//!
//! Databases are filled and read by other programs: Debian's Python, `redis-cli`, `mariadb`. To test another pair of
//! engines, add a line to `pairs`.

mod ages;
mod deletion;
mod durability;
mod gdbm_files;
mod interrupted;
mod merge;
mod options;
mod orders;
mod outliving;
mod pairs;
mod place;
mod places;
mod record;
mod refusals;
mod report;
mod served;
mod side;
mod sides;
mod verification;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use place::Place;
use record::{Record, SECOND, THEN, Tally, digest, local_date, tally};
use report::{MIGRATED, Summary, expect_rate};
use side::{Content, Planted, Side};

/// The password of every server in these tests. The program must never print it.
const PASSWORD: &str = "Hush0NeverShown";

/// Time zones in which every pair is tested, because redis_v0 and gdbm files have local dates.
const ZONES: [&str; 2] = ["UTC", "America/New_York"];

/// Returns all files below a directory with their contents and modification times.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else if path.is_file() {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            all.insert(path.clone(), (fs::read(&path).unwrap(), changed));
        }
    }
    all
}
