//! The passwd file: one account per line, `username : key`.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use pyzor_wire::request::ANONYMOUS;
use pyzor_wire::signature::KeyHash;

use crate::lines::{SignificantLine, significant};
use crate::loggable::quoted;

/// One account of a passwd file.
#[derive(Debug)]
pub struct PasswdEntry {
    /// The name of the account.
    pub user: String,
    /// The hash of its key.
    pub key: KeyHash,
    /// The line number, from 1.
    pub line: usize,
}

/// Reads the text of a passwd file, which warnings call `name`. Every line that is skipped or looks like a mistake causes
/// a warning, which never contains a key.
pub fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<PasswdEntry> {
    let mut entries: Vec<PasswdEntry> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    for line in significant(file) {
        let mut warn = |text: String| warnings.push(format!("{name}:{}: {text}", line.number));
        let (user, key) = match parse_line(&line) {
            Ok(parts) => parts,
            Err(why) => {
                warn(format!("Invalid accounts line, skipped: {why}"));
                continue;
            }
        };
        if key.contains(',') {
            warn(format!(
                "the key of {} contains a comma: the client's accounts file has 'salt,key'; write only the part after \
                 the comma here",
                quoted(user)
            ));
        } else if key.len() != 40 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            warn(format!("the key of {} is not 40 hexadecimal digits", quoted(user)));
        }
        let entry = PasswdEntry { user: user.to_owned(), key: KeyHash::new(user, key), line: line.number };
        match positions.entry(user.to_owned()) {
            Occupied(position) => {
                let earlier = &mut entries[*position.get()];
                warn(format!(
                    "duplicate account {}, first on line {}: this line takes effect",
                    quoted(user),
                    earlier.line
                ));
                *earlier = entry;
            }
            Vacant(position) => {
                position.insert(entries.len());
                entries.push(entry);
            }
        }
    }
    entries
}

/// Splits a line into the username and the key.
fn parse_line<'a>(line: &SignificantLine<'a>) -> Result<(&'a str, &'a str), String> {
    let text = line.text.ok_or("it is not UTF-8")?;
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    let [user, key] = parts[..] else {
        return Err("expected 'username : key', two parts separated by one colon".to_owned());
    };
    if user.is_empty() {
        return Err("the username is empty".to_owned());
    }
    if key.is_empty() {
        return Err(format!("the key of {} is empty, so any client could sign as this user", quoted(user)));
    }
    if user == ANONYMOUS {
        return Err("the anonymous user is never authenticated and needs no account".to_owned());
    }
    if user.chars().any(char::is_control) {
        return Err("the username contains a control character".to_owned());
    }
    Ok((user, key))
}
