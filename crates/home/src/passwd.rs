//! The passwd file: `username : key`, one account a line.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use pyzor_wire::request::ANONYMOUS;
use pyzor_wire::signature::KeyHash;

use crate::lines::significant;
use crate::loggable::quoted;

/// One account as the file has it.
#[derive(Debug)]
pub struct PasswdEntry {
    /// The name of the account.
    pub user: String,
    /// What its key is hashed to.
    pub key: KeyHash,
    /// The line's number, from 1.
    pub line: usize,
}

/// Reads a passwd file's text. Every line that is passed over, or that hardly does what its
/// author wanted, gets a warning, which never contains a key.
pub fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<PasswdEntry> {
    let mut entries: Vec<PasswdEntry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in significant(file) {
        let mut warn = |text: String| warnings.push(format!("{name}:{}: {text}", line.number));
        let mut skip = |why: &str| warn(format!("Invalid accounts line, skipped: {why}"));
        let Some(text) = line.text else {
            skip("it is not UTF-8");
            continue;
        };
        let mut parts = text.split(':');
        let (Some(user), Some(key), None) = (parts.next(), parts.next(), parts.next()) else {
            skip("expected 'username : key', two parts separated by one colon");
            continue;
        };
        let (user, key) = (user.trim(), key.trim());
        if user.is_empty() {
            skip("the username is empty");
            continue;
        }
        if key.is_empty() {
            skip(&format!("the key of {} is empty, so that anybody could sign as this user", quoted(user)));
            continue;
        }
        if user == ANONYMOUS {
            skip("the anonymous user is never authenticated and needs no account");
            continue;
        }
        if user.chars().any(char::is_control) {
            skip("the username contains a control character");
            continue;
        }
        if key.contains(',') {
            warn(format!(
                "the key of {} contains a comma: the client's file has 'salt,key', and only what is right of the \
                 comma belongs here",
                quoted(user)
            ));
        } else if key.len() != 40 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            warn(format!("the key of {} is not 40 hexadecimal digits", quoted(user)));
        }
        let entry = PasswdEntry { user: user.to_owned(), key: KeyHash::new(user, key), line: line.number };
        match places.entry(user.to_owned()) {
            Occupied(place) => {
                let earlier = &mut entries[*place.get()];
                warn(format!(
                    "the account {} stands on line {} too; this line counts",
                    quoted(user),
                    earlier.line
                ));
                *earlier = entry;
            }
            Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
        }
    }
    entries
}
