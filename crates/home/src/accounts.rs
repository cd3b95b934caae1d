//! The accounts file of a client: one account per line, `host : port : username : salt,key`.

use pyzor_wire::number;
use pyzor_wire::request::ANONYMOUS;
use pyzor_wire::request_writer::Signer;

use crate::address::{BAD_PORT, ServerAddress, parse_host};
use crate::lines::{SignificantLine, significant};
use crate::loggable::quoted;
use crate::servers::without_comment;

/// The longest username, in bytes: a request must fit a datagram.
const LONGEST_USER: usize = 255;

/// One account of an accounts file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountsEntry {
    /// The server that knows the account.
    pub address: ServerAddress,
    /// The user, with the key.
    pub signer: Signer,
    /// The line number, from 1.
    pub line: usize,
}

/// Reads the text of an accounts file, which warnings call `name`. Every line that is skipped or looks like a mistake
/// causes a warning, which never contains a key. Of several lines for one server the last takes effect. A comment begins
/// with `#`, at the beginning of a line or after a blank.
pub fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<AccountsEntry> {
    let mut entries: Vec<AccountsEntry> = Vec::new();
    for line in significant(file) {
        let mut warn = |text: String| warnings.push(format!("{name}:{}: {text}", line.number));
        let text = line.text.map(without_comment);
        if text == Some("") {
            continue;
        }
        let account = match text.ok_or("it is not UTF-8").and_then(parse_line) {
            Ok(account) => account,
            Err(why) => {
                warn(format!("not an account, skipped: {why}"));
                continue;
            }
        };
        let Account { address, user, key } = account;
        if key.len() != 40 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            warn(format!("the key of {} is not 40 hexadecimal digits", quoted(user)));
        }
        let entry = AccountsEntry { address, signer: Signer::new(user, key), line: line.number };
        match entries.iter_mut().find(|earlier| earlier.address == entry.address) {
            Some(earlier) => {
                warn(format!(
                    "another account for the server of line {}: this line takes effect",
                    earlier.line
                ));
                *earlier = entry;
            }
            None => entries.push(entry),
        }
    }
    entries
}

/// Returns the lines of an accounts file that are not understood, one message each, which calls the file `name`.
pub fn not_understood(file: &[u8], name: &str) -> Vec<String> {
    let message = |line: SignificantLine<'_>| {
        let why = match line.text.map(without_comment) {
            None => "it is not UTF-8",
            Some("") => return None,
            Some(text) => parse_line(text).err()?,
        };
        Some(format!("{name}:{}: not an account: {why}", line.number))
    };
    significant(file).filter_map(message).collect()
}

struct Account<'a> {
    address: ServerAddress,
    user: &'a str,
    key: &'a str,
}

/// Splits a line without a comment into its parts.
fn parse_line(text: &str) -> Result<Account<'_>, &'static str> {
    const PARTS: &str = "expected 'host : port : username : salt,key', four parts separated by colons";
    // The colons of an IPv6 address separate nothing.
    let host_end = if text.starts_with('[') { text.find(']').unwrap_or_default() } else { 0 };
    let colon = text[host_end..].find(':').ok_or(PARTS)? + host_end;
    let parts: Vec<&str> = text[colon + 1..].split(':').map(str::trim).collect();
    let [port, user, key] = parts[..] else { return Err(PARTS) };
    let host = parse_host(text[..colon].trim())?;
    let port = number::integer(port.as_bytes()).and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port > 0).ok_or(BAD_PORT)?;
    let key: Vec<&str> = key.split(',').map(str::trim).collect();
    let [salt, key] = key[..] else {
        return Err("the last part must be 'salt,key', with one comma: write ',key' if there is no salt");
    };
    if salt.is_empty() && key.is_empty() {
        return Err("the key is missing");
    }
    if user.is_empty() {
        return Err("the username is empty");
    }
    if user == ANONYMOUS {
        return Err("the anonymous user is never authenticated and needs no account");
    }
    if user.len() > LONGEST_USER || user.chars().any(char::is_control) {
        return Err("the username contains a control character, or is longer than 255 bytes");
    }
    Ok(Account { address: ServerAddress { host, port }, user, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";

    fn read(file: &str) -> (Vec<AccountsEntry>, Vec<String>) {
        let mut warnings = Vec::new();
        let entries = parse(file.as_bytes(), "accounts", &mut warnings);
        (entries, warnings)
    }

    #[test]
    fn accounts_have_a_server_a_user_and_a_key() {
        let file = format!(
            "# all\n\n a.example : +24_441 : a b : 0{KEY},{KEY}\n[::1]:5:bob:,{KEY} # mine\n[0::1]:6:eve:,{}\n",
            KEY.to_uppercase()
        );
        let (entries, warnings) = read(&file);
        assert_eq!(warnings, [""; 0]);
        let read: Vec<_> = entries.iter().map(|entry| (entry.address.to_string(), entry.line)).collect();
        let expected = [("a.example:24441", 3), ("[::1]:5", 4), ("[::1]:6", 5)];
        assert_eq!(read, expected.map(|(address, line)| (address.to_owned(), line)));
        let signers: Vec<&Signer> = entries.iter().map(|entry| &entry.signer).collect();
        assert_eq!(signers, [&Signer::new("a b", KEY), &Signer::new("bob", KEY), &Signer::new("eve", KEY)]);
    }

    #[test]
    fn last_account_of_a_server_takes_effect() {
        let (entries, warnings) = read(&format!("a:1:bob:,{KEY}\na:1:eve:,{KEY}\n"));
        assert_eq!((entries.len(), entries[0].signer.user(), entries[0].line), (1, "eve", 2));
        assert_eq!(
            warnings,
            ["accounts:2: another account for the server of line 1: this line takes effect"]
        );
    }

    #[test]
    fn bad_lines_are_reported_without_their_keys() {
        for line in [
            "a:1:bob",
            "a:1:bob:KEY",
            "a:1:bob:,",
            "a:1:bob:salt,KEY,x",
            "a:0:bob:,KEY",
            "a:x:bob:,KEY",
            "a:65536:bob:,KEY",
            "a:1::,KEY",
            "a:1:anonymous:,KEY",
            "a:1:b\tb:,KEY",
            "a:1:bob:,KEY:x",
            "::1:1:bob:,KEY",
            "[::1:1:bob:,KEY",
            "[::1]x:1:bob:,KEY",
            "KEY:KEY:KEY",
            "KEY : 1 : bob",
        ] {
            let (entries, warnings) = read(&line.replace("KEY", "s3cret-key"));
            assert_eq!((entries.len(), warnings.len()), (0, 1), "{line}: {warnings:?}");
            assert!(warnings[0].starts_with("accounts:1: not an account, skipped: "), "{warnings:?}");
            assert!(!warnings[0].contains("s3cret"), "{warnings:?}");
            let bad = not_understood(line.replace("KEY", "s3cret-key").as_bytes(), "accounts");
            assert_eq!(bad, [warnings[0].replace(", skipped", "")]);
        }
    }

    #[test]
    fn odd_key_causes_a_warning_and_is_used() {
        for (line, key) in [("a:1:bob:salt,", ""), ("a:1:bob:,s3 cret", "s3 cret")] {
            let (entries, warnings) = read(line);
            assert_eq!(entries[0].signer, Signer::new("bob", key));
            assert_eq!(warnings, ["accounts:1: the key of 'bob' is not 40 hexadecimal digits"]);
        }
    }
}
