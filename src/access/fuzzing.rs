//! Fuzz targets for the passwd and access files: the server's result is compared with that of a model that follows the
//! manual line by line.

use super::load::load_texts;
use pyzor_wire::signature::KeyHash;

use super::{AccessOrder, AccessSources, Authorizer, LoadedAccess, PresentFiles};
use crate::fuzz_models::{FuzzInput, check_lines, check_no_secret};
use pyzor_wire::op::Op;
use pyzor_wire::reply::Refusal;
use pyzor_wire::request::ANONYMOUS;

/// Accounts and their keys, for fuzz targets with signed requests.
pub(crate) const ACCOUNTS: [(&str, &str); 3] = [
    ("alice", "227bfb58efaba7c582d9dcb66ab2063d38df2923"),
    ("Bob", "8DA9F54058C34E383E997F45D6EB74837139F83B"),
    ("J\u{f6}rg x", "0123456789abcdef0123456789abcdef01234567"),
];

/// Access files and their orders, for fuzz targets with signed requests.
pub(crate) const FILES: [(&str, AccessOrder); 5] = [
    ("check report ping pong info : anonymous : allow\nall : alice BOB : allow\n", AccessOrder::First),
    ("all : all anonymous : allow\n", AccessOrder::First),
    ("all train : all anonymous : allow\nwhitelist : bob anonymous : deny\n", AccessOrder::Last),
    (
        "check info : anonymous : deny\nreport ping : anonymous alice : allow\nwhitelist : j\u{f6}rg all : allow\n",
        AccessOrder::First,
    ),
    ("", AccessOrder::First),
];

/// Returns an authorizer of [`ACCOUNTS`] for each of [`FILES`].
pub(crate) fn authorizers() -> Vec<Authorizer> {
    let passwd: String = ACCOUNTS.iter().map(|(user, key)| format!("{user} : {key}\n")).collect();
    let load = |(access, order): &(&str, AccessOrder)| {
        let texts = (Some(passwd.clone().into_bytes()), Some(access.as_bytes().to_vec()));
        load_texts(&sources(*order, true), PresentFiles::default(), texts.0, texts.1).authorizer
    };
    FILES.iter().map(load).collect()
}

/// Asserts that a passwd file gives exactly the accounts and keys of the model, and that no message contains a key.
pub(crate) fn passwd(bytes: &[u8]) {
    let loaded = loaded(Some(bytes), None, AccessOrder::First, true);
    check_texts(&loaded, bytes, b"");
    let accounts = model_accounts(bytes);
    assert_eq!(loaded.authorizer.len(), accounts.len());
    for (user, key) in &accounts {
        let account = loaded.authorizer.accounts.get(user.as_bytes());
        let account = account.unwrap_or_else(|| panic!("{user:?} is missing"));
        assert_eq!(account.key.sign(b"text", 7), KeyHash::new(user, key).sign(b"text", 7), "{user:?}");
        let shown = format!("{account:?}");
        assert!(key.len() < 16 || !shown.contains(key.as_str()));
    }
}

/// Asserts that both files, in either order, give every user exactly the rights of the model.
pub(crate) fn access(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let flags = input.byte();
    let order = if flags & 1 > 0 { AccessOrder::Last } else { AccessOrder::First };
    let passwd = input.until(0);
    let access = input.rest();
    let loaded = loaded(Some(passwd), Some(access), order, flags & 2 > 0);
    check_texts(&loaded, passwd, access);
    let mut ops: Vec<String> = Op::ALL.iter().map(|op| op.name().to_owned()).collect();
    ops.extend(words(access).into_iter().take(20));
    for (user, _) in model_accounts(passwd).into_iter().chain([(ANONYMOUS.to_owned(), String::new())]) {
        for op in &ops {
            let granted = model_grants(access, order, &user, op);
            let rights = match user.as_str() {
                ANONYMOUS => &loaded.authorizer.anonymous,
                user => &loaded.authorizer.accounts[user.as_bytes()].rights,
            };
            let is_known = Op::ALL.iter().any(|known| known.name() == op);
            let expected = match (granted, is_known) {
                (false, _) => Some(Refusal::Forbidden),
                (true, false) => Some(Refusal::NotImplemented),
                (true, true) => None,
            };
            assert_eq!(rights.operation(op.as_bytes()).err(), expected, "{user:?} and {op:?}");
        }
    }
}

/// Whether an access file grants an operation to a user, according to the manual: the first or the last matching line
/// decides.
pub fn model_grants(file: &[u8], order: AccessOrder, user: &str, op: &str) -> bool {
    let lines: Vec<String> = lines(file);
    let decided = |line: &String| -> Option<bool> {
        let parts: Vec<String> = line.split(':').map(str::to_lowercase).collect();
        let [ops, users, verb] = parts.as_slice() else { return None };
        let allow = match verb.trim() {
            "allow" => true,
            "deny" => false,
            _ => return None,
        };
        let ops: Vec<&str> = ops.split_whitespace().collect();
        let users: Vec<&str> = users.split_whitespace().collect();
        let is_op = ops.iter().any(|word| match *word {
            "all" => ["ping", "pong", "check", "info", "report", "whitelist"].contains(&op),
            word => word == op,
        });
        let is_user = users.iter().any(|word| match *word {
            "all" => user != ANONYMOUS,
            // An account whose name differs from it in case is an ordinary account.
            ANONYMOUS => user == ANONYMOUS,
            word => user != ANONYMOUS && word == user.to_lowercase(),
        });
        (is_op && is_user).then_some(allow)
    };
    let mut decisions = lines.iter().filter_map(decided);
    let decision = match order {
        AccessOrder::First => decisions.next(),
        AccessOrder::Last => decisions.next_back(),
    };
    decision.unwrap_or(false)
}

/// Returns accounts and keys; the last line of an account takes effect.
fn model_accounts(file: &[u8]) -> Vec<(String, String)> {
    let mut accounts: Vec<(String, String)> = Vec::new();
    for line in lines(file) {
        let parts: Vec<&str> = line.split(':').map(str::trim).collect();
        let [user, key] = parts.as_slice() else { continue };
        let is_user = !user.is_empty() && *user != ANONYMOUS && !user.chars().any(char::is_control);
        if is_user && !key.is_empty() {
            accounts.retain(|(known, _)| known != user);
            accounts.push(((*user).to_owned(), (*key).to_owned()));
        }
    }
    accounts
}

/// Returns the lines that are UTF-8 and not comments.
fn lines(file: &[u8]) -> Vec<String> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let lines = file.split(|byte| *byte == b'\n' || *byte == b'\r');
    let texts = lines.filter_map(|line| String::from_utf8(line.to_vec()).ok());
    texts.filter(|line| !line.starts_with('#')).collect()
}

/// Returns the words of an access file that may name operations.
fn words(file: &[u8]) -> Vec<String> {
    let first = |line: &String| line.split(':').next().unwrap_or_default().to_lowercase();
    let words = lines(file).iter().map(first).collect::<Vec<_>>();
    words
        .iter()
        .flat_map(|words| words.split_whitespace())
        .filter(|word| *word != "all")
        .map(str::to_owned)
        .collect()
}

/// Asserts that every message is one line, and that none contains a key.
fn check_texts(loaded: &LoadedAccess, passwd: &[u8], access: &[u8]) {
    check_lines(loaded.warnings.iter().chain(&loaded.notes));
    let texts = || loaded.warnings.iter().chain(&loaded.notes);
    for (_, key) in model_accounts(passwd) {
        // A key that is also a name may be shown as one, and a short key may be a part of any word.
        let named = String::from_utf8_lossy(passwd).matches(key.as_str()).count()
            + String::from_utf8_lossy(access).matches(key.as_str()).count();
        if key.len() >= 16 && named == 1 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            check_no_secret(&key, texts());
        }
    }
    // Every word that looks like a key, on any line of either file.
    let both = format!("{}\n{}", String::from_utf8_lossy(passwd), String::from_utf8_lossy(access));
    for word in both.split(|character: char| !character.is_ascii_alphanumeric()) {
        let is_key = word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        // An escaped zero byte may complete a word of 39 digits.
        if is_key && both.matches(&word[1..]).count() == both.matches(word).count() {
            check_no_secret(word, texts());
        }
    }
}

fn loaded(
    passwd: Option<&[u8]>,
    access: Option<&[u8]>,
    order: AccessOrder,
    order_chosen: bool,
) -> LoadedAccess {
    let texts = (passwd.map(<[u8]>::to_vec), access.map(<[u8]>::to_vec));
    load_texts(&sources(order, order_chosen), PresentFiles::default(), texts.0, texts.1)
}

fn sources(order: AccessOrder, order_chosen: bool) -> AccessSources {
    AccessSources { passwd: "P".into(), access: "A".into(), order, order_chosen, forward_from: Vec::new() }
}
