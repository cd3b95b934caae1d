//! gdbm databases, read and written with other programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::directory::Directory;
use super::{from_hex, hex, run};

/// A gdbm database, read and written with Debian's Python and gdbm's own tool.
pub(crate) struct Database {
    path: PathBuf,
    // Keeps the file after the server and its homedir have been dropped.
    _directory: Arc<Directory>,
}

impl Database {
    /// The database in a file of the directory, which need not exist yet.
    pub(super) fn new(path: PathBuf, directory: Arc<Directory>) -> Self {
        Self { path, _directory: directory }
    }

    /// Stores records with Debian's Python, as the Python server does.
    pub(crate) fn write<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, records: &[(K, V)]) {
        const STORE: &str = "
import dbm.gnu, sys
with dbm.gnu.open(sys.argv[1], 'c', 0o600) as database:
    for line in sys.stdin:
        key, value = line.rstrip('\\n').split(' ')
        database[bytes.fromhex(key)] = bytes.fromhex(value)
";
        let line = |(key, value): &(K, V)| format!("{} {}\n", hex(key.as_ref()), hex(value.as_ref()));
        let input: String = records.iter().map(line).collect();
        self.python(STORE, input.as_bytes());
    }

    /// Reads all records with Debian's Python.
    pub(crate) fn read(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        const DUMP: &str = "
import dbm.gnu, sys
with dbm.gnu.open(sys.argv[1], 'r') as database:
    for key in database.keys():
        print(key.hex(), database[key].hex())
";
        let record = |line: &str| {
            let (key, value) = line.split_once(' ').unwrap();
            (from_hex(key), from_hex(value))
        };
        self.python(DUMP, b"").lines().map(record).collect()
    }

    /// Reads the record under a key as text with Debian's Python; panics if there is none.
    #[track_caller]
    pub(crate) fn record(&self, key: &str) -> String {
        let records = self.read();
        let value = records.get(key.as_bytes()).unwrap_or_else(|| panic!("no record under {key}"));
        String::from_utf8_lossy(value).into_owned()
    }

    fn python(&self, program: &str, input: &[u8]) -> String {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", program]).arg(&self.path);
        let output = run(&mut python, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("No module named"), "{stderr}: run tests/setup.sh");
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Reads all records, which must be text, with gdbm's own tool, or returns the tool's error.
    pub(crate) fn list(&self) -> Result<BTreeMap<String, String>, String> {
        let output = run(Command::new("gdbmtool").args(["-q", "-N", "-r"]).arg(&self.path), b"list\n");
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !output.stderr.is_empty() {
            return Err(format!("gdbmtool: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let record = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned()));
        stdout.lines().map(|line| record(line).ok_or_else(|| format!("gdbmtool: {line}"))).collect()
    }

    /// Runs commands of gdbm's own tool and returns its output.
    pub(crate) fn gdbmtool(&self, commands: &str) -> String {
        let output = run(Command::new("gdbmtool").args(["-q", "-N"]).arg(&self.path), commands.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}
