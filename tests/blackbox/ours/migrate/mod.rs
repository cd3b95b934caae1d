//! pyzor-migrate: what arrives where, what is said of it, and what is left alone.
//!
//! A database is filled and looked at by other programs than ours: Debian's Python, `redis-cli`,
//! `mariadb`. A pair of engines joins the battery by one line in `pairs`.

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
use report::{MIGRATED, Told, expect_rate};
use side::{Content, Planted, Side};

/// The password of every server here. No run of the program may say it, whatever it is asked to do.
const PASSWORD: &str = "Hush0NeverShown";

/// Zones in which every pair is tried. Texts and gdbm files have local dates.
const ZONES: [&str; 2] = ["UTC", "America/New_York"];

/// All files below a directory with what is in them and when that was changed.
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
