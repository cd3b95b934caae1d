//! Fuzz targets for the servers and accounts files of a client: lines that the established server accepts are accepted
//! with the same meaning, every other line is reported, and no message contains a key.

use super::load::with_accounts;
use crate::fuzz_models::{FuzzInput, check_lines, check_no_secret};
use pyzor_home::accounts;
use pyzor_home::address::ServerAddress;
use pyzor_home::servers::{self, ServersEntry};
use pyzor_wire::request::ANONYMOUS;
use pyzor_wire::request_writer::Signer;

/// Asserts that every line is either a server or reported, and that servers are the same after they are written to a
/// plain file and read again.
pub(crate) fn servers(bytes: &[u8]) {
    let mut warnings = Vec::new();
    let entries = servers::parse(bytes, "S", &mut warnings);
    check_lines(&warnings);
    for address in lines(bytes).iter().filter_map(|line| model_address(line)) {
        assert!(
            entries.iter().any(|entry| entry.address.is_same_server(&address)),
            "{address} is missing in {entries:?}"
        );
    }
    let mut at: Vec<usize> = entries.iter().map(|entry| entry.line).chain(numbers(&warnings)).collect();
    at.sort_unstable();
    assert!(at.is_sorted_by(|line, next| line < next), "a line was used twice: {at:?}");
    let plain: String = entries.iter().map(|entry| format!("{}\n", entry.address)).collect();
    let mut none = Vec::new();
    let again = servers::parse(plain.as_bytes(), "S", &mut none);
    assert_eq!(none, [""; 0]);
    let address = |entry: &ServersEntry| entry.address.clone();
    assert_eq!(
        again.iter().map(address).collect::<Vec<_>>(),
        entries.iter().map(address).collect::<Vec<_>>()
    );
}

/// Asserts that accounts are those of a model, that each server gets its own, and that no message contains a key. The
/// servers file is before the first zero byte.
pub(crate) fn accounts(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let (servers, accounts) = (input.until(0), input.rest());
    let mut warnings = Vec::new();
    let servers = servers::parse(servers, "S", &mut warnings);
    let entries = accounts::parse(accounts, "A", &mut warnings);
    for (address, user, key) in model_accounts(accounts) {
        let entry = entries.iter().find(|entry| entry.address == address);
        // A line of a form that the model does not know may come after it.
        let is_last = entry.is_none_or(|entry| entry.signer == Signer::new(&user, &key));
        assert!(entry.is_some() && (is_last || has_other_forms(accounts)), "{address} {user:?}: {entry:?}");
    }
    let remotes = with_accounts(servers.clone(), &entries, "A", &mut warnings);
    assert_eq!(remotes.len(), servers.len());
    for remote in &remotes {
        let address = ServerAddress { host: remote.host.clone(), port: remote.port };
        let account = entries.iter().find(|entry| entry.address == address);
        assert_eq!(account.map_or(ANONYMOUS, |account| account.signer.user()), remote.signer.user());
        assert_eq!(remote.to_string(), address.to_string());
    }
    check_lines(&warnings);
    check_keys(accounts, &warnings);
}

/// Asserts that no warning contains a word that looks like a key, or the key of the model's accounts.
fn check_keys(file: &[u8], warnings: &[String]) {
    let text = String::from_utf8_lossy(file);
    for word in text.split(|character: char| !character.is_ascii_alphanumeric()) {
        // An escaped character may complete a word of 39 characters.
        if word.len() >= 40 && text.matches(&word[1..]).count() == text.matches(word).count() {
            check_no_secret(word, warnings);
        }
    }
    for (_, _, key) in model_accounts(file) {
        if key.len() >= 16 && text.matches(key.as_str()).count() == 1 {
            check_no_secret(&key, warnings);
        }
    }
}

/// Returns the line numbers of the warnings.
fn numbers(warnings: &[String]) -> Vec<usize> {
    let number = |text: &String| text.split(':').nth(1).and_then(|number| number.parse().ok());
    warnings.iter().map(|text| number(text).unwrap_or_else(|| panic!("{text:?} names no line"))).collect()
}

/// Returns the lines that are UTF-8, without the blanks at their ends.
fn lines(file: &[u8]) -> Vec<String> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let lines = file.split(|byte| *byte == b'\n' || *byte == b'\r');
    lines
        .filter_map(|line| String::from_utf8(line.to_vec()).ok())
        .map(|line| line.trim().to_owned())
        .collect()
}

/// Returns the address in a line of a plain form that the established server accepts.
fn model_address(line: &str) -> Option<ServerAddress> {
    let (host, port) = line.rsplit_once(':')?;
    model_host_port(host, port)
}

fn model_host_port(host: &str, port: &str) -> Option<ServerAddress> {
    let is_plain = (2..=60).contains(&host.len())
        && host.chars().all(|character| character.is_ascii_alphanumeric())
        && host.ends_with(|character: char| character.is_ascii_alphabetic())
        // That is taken for a key.
        && !(host.len() >= 40 && host.chars().all(|character| character.is_ascii_hexdigit()));
    let is_number = !port.is_empty() && port.chars().all(|digit| digit.is_ascii_digit());
    let port = is_number.then(|| port.parse().ok()).flatten().filter(|port| *port > 0)?;
    is_plain.then(|| ServerAddress { host: host.to_owned(), port })
}

/// Returns the accounts in lines of a plain form, each with its user and key. Of several for one server the last is
/// returned.
fn model_accounts(file: &[u8]) -> Vec<(ServerAddress, String, String)> {
    let mut accounts: Vec<(ServerAddress, String, String)> = Vec::new();
    for line in lines(file) {
        if line.contains('#') {
            continue;
        }
        let parts: Vec<&str> = line.split(':').map(str::trim).collect();
        let [host, port, user, key] = parts[..] else { continue };
        let Some(address) = model_host_port(host, port) else { continue };
        let keys: Vec<&str> = key.split(',').map(str::trim).collect();
        let [_, key] = keys[..] else { continue };
        let is_user =
            (1..=255).contains(&user.len()) && user != ANONYMOUS && !user.chars().any(char::is_control);
        if is_user && !key.is_empty() {
            accounts.retain(|(known, ..)| *known != address);
            accounts.push((address, user.to_owned(), key.to_owned()));
        }
    }
    accounts
}

/// Whether a line may be an account of a form that the model does not know.
fn has_other_forms(file: &[u8]) -> bool {
    let is_other = |line: &String| {
        line.contains(['#', '+', '_']) || line.split(',').nth(1).is_some_and(|key| key.trim().is_empty())
    };
    lines(file).iter().any(is_other)
}
