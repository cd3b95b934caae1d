//! Input files with the records, in the form that each program reads.

use std::fs::File;
use std::io::{BufWriter, Write};

use sha1::Digest as _;

use crate::arena::Arena;

/// The times of every record: as dates in gdbm and MySQL, and as seconds in Redis.
const DATES: [&str; 4] =
    ["2026-03-04 05:06:07", "2026-10-11 12:13:14", "2026-05-04 05:06:07", "2026-09-11 12:13:14"];
const SECONDS: [&str; 4] = ["1772600767", "1791720794", "1777871167", "1789128794"];

pub(crate) const FIELDS: [&str; 6] =
    ["r_count", "r_entered", "r_updated", "wl_count", "wl_entered", "wl_updated"];
pub(crate) const COLUMNS: &str = "digest, r_count, r_entered, r_updated, wl_count, wl_entered, wl_updated";

impl Arena {
    /// Writes the records in the form that each program reads, in random and in sorted order.
    pub(crate) fn write_inputs(&self) {
        let mut digests: Vec<String> = (0..self.records).map(digest).collect();
        self.write_dump("random", &digests);
        self.write_rows("random.sql", &digests);
        let file = |name: &str| BufWriter::new(File::create(self.path(name)).unwrap());
        let (mut hset, mut hmget) = (file("hset"), file("hmget"));
        for (number, digest) in (1..).zip(&digests) {
            let key = format!("pyzord.digest_v1.{digest}");
            let fields = hash(count(number));
            write_command(&mut hset, ["HSET", &key].into_iter().chain(fields.iter().map(String::as_str)));
            write_command(&mut hmget, ["HMGET", &key].into_iter().chain(FIELDS));
        }
        hset.flush().unwrap();
        hmget.flush().unwrap();
        digests.sort_unstable();
        self.write_dump("sorted", &digests);
        self.write_rows("sorted.sql", &digests);
    }

    /// Writes a dump for `gdbm_load`.
    fn write_dump(&self, name: &str, digests: &[String]) {
        let mut file = BufWriter::new(File::create(self.path(name)).unwrap());
        writeln!(file, "# GDBM dump file\n#:version=1.1\n#:format=standard\n# End of header").unwrap();
        for (number, digest) in (1..).zip(digests) {
            let [entered, updated, wl_entered, wl_updated] = DATES;
            let value = format!(
                "1,{},{entered}.123456,{updated}.654321,1,{wl_entered}.123456,{wl_updated}.654321",
                count(number)
            );
            for datum in [digest.as_bytes(), value.as_bytes()] {
                writeln!(file, "#:len={}", datum.len()).unwrap();
                // 57 bytes make a line of 76 characters.
                for line in datum.chunks(57) {
                    writeln!(file, "{}", base64(line)).unwrap();
                }
            }
        }
        writeln!(file, "#:count={}\n# End of data", digests.len()).unwrap();
        file.flush().unwrap();
    }

    /// Writes statements that insert 1000 rows each.
    fn write_rows(&self, name: &str, digests: &[String]) {
        let mut file = BufWriter::new(File::create(self.path(name)).unwrap());
        for (start, digests) in (1..).step_by(1000).zip(digests.chunks(1000)) {
            let [entered, updated, wl_entered, wl_updated] = DATES;
            let row = |(number, digest): (u32, &String)| {
                format!(
                    "('{digest}',{},'{entered}','{updated}',1,'{wl_entered}','{wl_updated}')",
                    count(number)
                )
            };
            let rows: Vec<String> = (start..).zip(digests).map(row).collect();
            writeln!(file, "INSERT INTO target ({COLUMNS}) VALUES {};", rows.join(",")).unwrap();
        }
        file.flush().unwrap();
    }
}

fn digest(number: u32) -> String {
    sha1::Sha1::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the number of reports of the record with this number.
fn count(number: u32) -> u32 {
    number % 1000 + 1
}

/// Returns the fields and values of a hash.
pub(crate) fn hash(count: u32) -> Vec<String> {
    let count = count.to_string();
    let values = [&count, SECONDS[0], SECONDS[1], "1", SECONDS[2], SECONDS[3]];
    FIELDS.iter().zip(values).flat_map(|(field, value)| [field.to_string(), value.to_owned()]).collect()
}

fn write_command<'a>(file: &mut impl Write, words: impl Iterator<Item = &'a str>) {
    let words: Vec<&str> = words.collect();
    write!(file, "*{}\r\n", words.len()).unwrap();
    words.iter().for_each(|word| write!(file, "${}\r\n{word}\r\n", word.len()).unwrap());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}
