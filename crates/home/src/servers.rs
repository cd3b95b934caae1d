//! The servers file of a client: one server per line, `host:port`.

use crate::address::ServerAddress;
use crate::lines::{SignificantLine, significant};

/// One server of a servers file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersEntry {
    /// The address of the server.
    pub address: ServerAddress,
    /// The line number, from 1.
    pub line: usize,
}

/// Reads the text of a servers file, which warnings call `name`. Every line that is skipped causes a warning; a server
/// that is named again is skipped. A comment begins with `#`, at the beginning of a line or after a blank.
pub fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<ServersEntry> {
    let mut entries: Vec<ServersEntry> = Vec::new();
    for line in significant(file) {
        let mut warn = |text: String| warnings.push(format!("{name}:{}: {text}", line.number));
        let address = match parse_line(&line) {
            Ok(Some(address)) => address,
            Ok(None) => continue,
            Err(why) => {
                warn(format!("not a server, skipped: {why}"));
                continue;
            }
        };
        match entries.iter().find(|entry| entry.address.is_same_server(&address)) {
            Some(earlier) => {
                warn(format!("the same server as on line {}, skipped", earlier.line));
            }
            None => entries.push(ServersEntry { address, line: line.number }),
        }
    }
    entries
}

/// Returns the lines of a servers file that are not understood, one message each, which calls the file `name`.
pub fn not_understood(file: &[u8], name: &str) -> Vec<String> {
    let message = |line: SignificantLine<'_>| {
        let why = parse_line(&line).err()?;
        Some(format!("{name}:{}: not a server: {why}", line.number))
    };
    significant(file).filter_map(message).collect()
}

/// Returns the address in a line; none if there is only a comment.
fn parse_line(line: &SignificantLine<'_>) -> Result<Option<ServerAddress>, &'static str> {
    match line.text.map(without_comment).ok_or("it is not UTF-8")? {
        "" => Ok(None),
        text => {
            let address = ServerAddress::parse(text)?;
            // A host of this name would be in every message.
            let is_key =
                address.host.len() >= 40 && address.host.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_key {
                Err("it looks like a key, which belongs into the accounts file")
            } else {
                Ok(Some(address))
            }
        }
    }
}

/// Returns a line without a comment and the blanks at its ends.
pub(crate) fn without_comment(line: &str) -> &str {
    let is_comment = |(at, _): &(usize, &str)| *at == 0 || line[..*at].ends_with(char::is_whitespace);
    match line.match_indices('#').find(is_comment) {
        Some((at, _)) => line[..at].trim(),
        None => line.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_not_a_server() {
        const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";
        for line in [KEY.to_owned(), format!("{KEY}:24441"), KEY.to_uppercase(), format!("a:1\n,{KEY}")] {
            let mut warnings = Vec::new();
            let entries = parse(line.as_bytes(), "servers", &mut warnings);
            assert_eq!((entries.len(), warnings.len()), (line.matches("a:1").count(), 1), "{warnings:?}");
            assert!(!warnings[0].to_lowercase().contains(KEY), "{warnings:?}");
        }
        assert!(parse(format!("{KEY}.example:1").as_bytes(), "servers", &mut Vec::new()).len() == 1);
    }

    #[test]
    fn servers_are_read_in_order_and_every_bad_line_is_reported() {
        let file = b"# all\r\n  # indented\n\nb:2 # second\n\ta:1\t\n[::1]\nx y:1\nB:2\n\xff:1\n127.0.0.1:1:x\na:1#x";
        let mut warnings = Vec::new();
        let entries = parse(file, "servers", &mut warnings);
        let read: Vec<_> = entries.iter().map(|entry| (entry.address.to_string(), entry.line)).collect();
        assert_eq!(read, [("b:2".to_owned(), 4), ("a:1".to_owned(), 5), ("[::1]:24441".to_owned(), 6)]);
        let lines: Vec<&str> = warnings.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["servers:7", "servers:8", "servers:9", "servers:10", "servers:11"]);
        assert_eq!(warnings[1], "servers:8: the same server as on line 4, skipped");
        assert_eq!(warnings[2], "servers:9: not a server, skipped: it is not UTF-8");
        let bad = not_understood(file, "servers");
        assert_eq!((bad.len(), bad[1].as_str()), (4, "servers:9: not a server: it is not UTF-8"));
    }
}
