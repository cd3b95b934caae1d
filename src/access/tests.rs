use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::request::ANONYMOUS;

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(passwd: Option<&[u8]>, access: Option<&[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("passwd", passwd), ("access", access)] {
            if let Some(text) = text {
                let path = directory.path().join(name);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        Self { directory }
    }

    fn sources(&self, order: AccessOrder) -> AccessSources {
        AccessSources {
            passwd: self.directory.path().join("passwd"),
            access: self.directory.path().join("access"),
            order,
            order_chosen: false,
            forward_from: Vec::new(),
        }
    }

    fn load(&self, order: AccessOrder) -> LoadedAccess {
        load(&self.sources(order), PresentFiles::default()).unwrap()
    }
}

const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";

fn may(loaded: &LoadedAccess, user: &str, op: &str) -> bool {
    let authorizer = &loaded.authorizer;
    let rights =
        if user == ANONYMOUS { &authorizer.anonymous } else { &authorizer.accounts[user.as_bytes()].rights };
    rights.operation(op.as_bytes()).is_ok()
}

fn rights(loaded: &LoadedAccess, user: &str) -> String {
    Op::ALL.into_iter().map(Op::name).filter(|op| may(loaded, user, op)).collect::<Vec<_>>().join(" ")
}

#[test]
fn without_files_anonymous_has_the_default_rights() {
    let loaded = Files::new(None, None).load(AccessOrder::First);
    assert_eq!(rights(&loaded, ANONYMOUS), "ping pong check info report");
    assert!(loaded.authorizer.is_empty());
    assert_eq!(loaded.warnings, [""; 0]);
}

#[test]
fn an_empty_access_file_denies_everything() {
    let loaded = Files::new(None, Some(b"")).load(AccessOrder::First);
    assert_eq!(rights(&loaded, ANONYMOUS), "");
}

#[test]
fn the_first_or_the_last_match_decides() {
    let passwd = format!("bob : {KEY}\nalice : {KEY}\n");
    let files = Files::new(
        Some(passwd.as_bytes()),
        Some(b"ping : bob : deny\nall : all : allow\nwhitelist : alice anonymous : deny\ncheck : anonymous : allow\n"),
    );
    let first = files.load(AccessOrder::First);
    assert_eq!(rights(&first, "bob"), "pong check info report whitelist");
    assert_eq!(rights(&first, "alice"), "ping pong check info report whitelist");
    assert_eq!(rights(&first, ANONYMOUS), "check");
    let last = files.load(AccessOrder::Last);
    assert_eq!(rights(&last, "bob"), "ping pong check info report whitelist");
    assert_eq!(rights(&last, "alice"), "ping pong check info report");

    let name = files.directory.path().join("access").display().to_string();
    assert_eq!(first.warnings.len(), 2, "{:?}", first.warnings);
    assert!(
        first.warnings[0].starts_with(&format!("{name}:1: ping denied to bob by this line")),
        "{}",
        first.warnings[0]
    );
    assert!(first.warnings[0].contains("allowed by line 2") && first.warnings[0].contains("narrower"));
    assert!(
        first.warnings[1].starts_with(&format!("{name}:2: whitelist allowed to alice")),
        "{}",
        first.warnings[1]
    );
    assert!(first.warnings[1].contains("denied by line 3") && first.warnings[1].contains("WIDER"));
}

#[test]
fn a_chosen_order_needs_no_warning() {
    let files = Files::new(None, Some(b"ping : anonymous : deny\nping : anonymous : allow\n"));
    assert_eq!(files.load(AccessOrder::First).warnings.len(), 1);
    let chosen = AccessSources { order_chosen: true, ..files.sources(AccessOrder::First) };
    assert_eq!(load(&chosen, PresentFiles::default()).unwrap().warnings, [""; 0]);
}

#[test]
fn all_is_a_keyword_inside_a_list_and_never_means_anonymous() {
    let passwd = format!("bob : {KEY}\n");
    let loaded =
        Files::new(Some(passwd.as_bytes()), Some(b"check ALL : all : allow\n")).load(AccessOrder::First);
    assert!(
        loaded.warnings.len() == 1
            && loaded.warnings[0].contains("access:1: 'all' in a list of several words"),
        "{:?}",
        loaded.warnings
    );
    assert_eq!(rights(&loaded, "bob"), "ping pong check info report whitelist");
    assert_eq!(rights(&loaded, ANONYMOUS), "");
    let loaded =
        Files::new(Some(passwd.as_bytes()), Some(b"ping : all anonymous : Allow\n")).load(AccessOrder::First);
    assert_eq!((rights(&loaded, "bob"), rights(&loaded, ANONYMOUS)), ("ping".to_owned(), "ping".to_owned()));
}

#[test]
fn an_unknown_operation_is_forbidden_unless_it_is_granted() {
    let loaded = Files::new(None, Some(b"all train : anonymous : allow\n")).load(AccessOrder::First);
    let anonymous = &loaded.authorizer.anonymous;
    assert_eq!(anonymous.operation(b"train"), Err(Refusal::NotImplemented));
    assert_eq!(anonymous.operation(b"trains"), Err(Refusal::Forbidden));
    assert_eq!(anonymous.operation(b""), Err(Refusal::Forbidden));
    assert_eq!(anonymous.operation(b"Ping"), Err(Refusal::Forbidden));
    assert_eq!(anonymous.operation(b"ping"), Ok(Op::Ping));
}

#[test]
fn names_in_the_access_file_match_in_any_case_with_a_warning() {
    let passwd = format!("Upper : {KEY}\n");
    let loaded =
        Files::new(Some(passwd.as_bytes()), Some(b"ping : upper : allow\n")).load(AccessOrder::First);
    assert_eq!(rights(&loaded, "Upper"), "ping");
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].ends_with(
        "access:1: 'upper' differs in case from the account 'Upper': the line applies to that account"
    ));
}

#[test]
fn an_account_called_anonymous_in_another_case_is_an_account() {
    let passwd = format!("Anonymous : {KEY}\n");
    let access = b"ping : all : allow\npong : anonymous : allow\n";
    let loaded = Files::new(Some(passwd.as_bytes()), Some(access)).load(AccessOrder::First);
    assert_eq!(
        (rights(&loaded, "Anonymous"), rights(&loaded, ANONYMOUS)),
        ("ping".to_owned(), "pong".to_owned())
    );
}

#[test]
fn key_in_the_wrong_file_is_not_shown() {
    let access = format!("bob : {KEY}\n");
    let loaded = Files::new(None, Some(access.as_bytes())).load(AccessOrder::First);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(!loaded.warnings[0].contains(KEY), "{}", loaded.warnings[0]);
}

#[test]
fn bad_lines_are_named_and_skipped_without_their_keys() {
    let passwd = format!(
        "# a comment\n\nbob {KEY}\nempty :\nsalted : {KEY},{KEY}\nok : {KEY}\r\nok : {}\nOK : {KEY}\n\u{e9}: {KEY}\n",
        KEY.to_uppercase()
    );
    let mut passwd = passwd.into_bytes();
    passwd.extend_from_slice(b"\xff : x\nanonymous : ");
    passwd.extend_from_slice(KEY.as_bytes());
    let access = b"\xef\xbb\xbfping : ok : allow\nping : ok\nping : ok : allow # c\n # c\n\xff : ok : allow\nping : ok : permit\n : ok : deny\n";
    let loaded = Files::new(Some(&passwd), Some(access)).load(AccessOrder::First);
    let mut users: Vec<_> =
        loaded.authorizer.accounts.keys().map(|user| String::from_utf8_lossy(user).into_owned()).collect();
    users.sort();
    assert_eq!(users, ["OK", "ok", "salted", "é"]);
    assert_eq!(rights(&loaded, "ok"), "ping");
    let all = loaded.warnings.join("\n");
    for part in [
        "passwd:3: Invalid accounts line, skipped: expected",
        "passwd:4: Invalid accounts line, skipped: the key of 'empty' is empty",
        "passwd:5: the key of 'salted' contains a comma",
        "passwd:7: duplicate account 'ok', first on line 6",
        "passwd:8: the account 'OK' differs only in case from 'ok' on line 7",
        "passwd:10: Invalid accounts line, skipped: it is not UTF-8",
        "passwd:11: Invalid accounts line, skipped: the anonymous user",
        "access:2: Invalid ACL line 'ping : ok', skipped",
        "access:3: Invalid ACL line",
        "access:4: Invalid ACL line '# c'",
        "access:5: Invalid ACL line, skipped: it is not UTF-8",
        "access:6: Invalid ACL line 'ping : ok : permit', skipped: expected 'allow' or 'deny', not 'permit'",
        "access:7: the list of commands is empty",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    assert!(!all.to_lowercase().contains(KEY), "{all}");
}

#[test]
fn deleted_file_is_a_warning_and_unreadable_file_an_error() {
    let passwd = format!("bob : {KEY}\n");
    let files = Files::new(Some(passwd.as_bytes()), Some(b""));
    let before = files.load(AccessOrder::First);
    fs::remove_file(files.directory.path().join("passwd")).unwrap();
    fs::remove_file(files.directory.path().join("access")).unwrap();
    let after = load(&files.sources(AccessOrder::First), before.present).unwrap();
    assert_eq!(after.warnings.len(), 2);
    assert!(
        after.warnings.iter().all(|warning| warning.contains(" no longer exists. ")),
        "{:?}",
        after.warnings
    );
    assert_eq!(rights(&after, ANONYMOUS), "ping pong check info report");

    fs::create_dir(files.directory.path().join("access")).unwrap();
    let error = load(&files.sources(AccessOrder::First), before.present).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read the access file ") && error.ends_with("it is not a regular file"),
        "{error}"
    );
}

/// The signature was computed with another implementation of SHA-1.
#[test]
fn correct_signature_is_accepted_and_wrong_one_refused() {
    let passwd = format!("bob : {}\n", KEY.to_uppercase());
    let loaded = Files::new(Some(passwd.as_bytes()), Some(b"ping : bob : allow\n")).load(AccessOrder::First);
    let authorizer = &loaded.authorizer;
    let ask = |datagram: &str, now: i64| {
        let mut parser = HeaderParser::default();
        let request = Request::new(parser.parse(datagram.as_bytes()));
        authorizer.authenticate(&request, Timestamp::from_seconds(now), &mut Vec::new()).cloned()
    };
    let bob = Ok(authorizer.accounts[&b"bob"[..]].rights.clone());
    let head = "Op: ping\nThread: 3000\nPV: 2.1\nUser: bob\nTime: 1700000000\n";
    let signature = "803f59e06328eb1e8f789ab5e1905254a89dcd54";
    let signed = format!("{head}Sig: {signature}\n\n");
    assert_eq!(ask(&signed, 1_700_000_000), bob);
    assert_eq!(ask(&signed, 1_700_000_300), bob);
    assert_eq!(ask(&signed, 1_699_999_700), bob);
    assert_eq!(ask(&signed, 1_700_000_301), Err(Refusal::TimeOutOfRange));
    assert_eq!(ask(&signed, 1_699_999_699), Err(Refusal::TimeOutOfRange));
    assert_eq!(ask(&signed.replace('\n', "\r\n").replace("\r\n\r\n", "\r\n"), 1_700_000_000), bob);
    assert_eq!(ask(&signed.replace("Time: ", "Time: +0"), 1_700_000_000), Err(Refusal::InvalidSignature));
    assert_eq!(ask(&signed.replace("Op: ping", "Op: pong"), 1_700_000_000), Err(Refusal::InvalidSignature));
    assert_eq!(
        ask(&signed.replace(signature, &signature.to_uppercase()), 1_700_000_000),
        Err(Refusal::InvalidSignature)
    );
    assert_eq!(ask(head, 1_700_000_000), Err(Refusal::InvalidSignature));
    assert_eq!(ask(&signed.replace("Time: 1700000000\n", ""), 1_700_000_000), Err(Refusal::InvalidTime));
    assert_eq!(ask(&signed.replace("1700000000", "today"), 1_700_000_000), Err(Refusal::InvalidTime));
    assert_eq!(ask(&signed.replace("User: bob", "User: Bob"), 1_700_000_000), Err(Refusal::UnknownUser));
    let anonymous = signed.replace("User: bob", "User: anonymous");
    assert_eq!(ask(&anonymous, 0), Ok(authorizer.anonymous.clone()));
    assert_eq!(ask("Op: ping\n", 0), Ok(authorizer.anonymous.clone()));
}

#[test]
fn possible_keys_are_never_shown() {
    let swapped = format!("{KEY} : alice\n{} : x\nalice : {KEY}\n", KEY.to_uppercase());
    let access = format!("all : {KEY} : allow\nx : y : {KEY}\n{KEY} : all : allow\n{KEY} : alice : deny\n");
    let loaded = Files::new(Some(swapped.as_bytes()), Some(access.as_bytes())).load(AccessOrder::First);
    let texts: Vec<&String> = loaded.warnings.iter().chain(&loaded.notes).collect();
    assert!(texts.len() > 6, "{texts:#?}");
    for text in texts {
        assert!(!text.to_lowercase().contains(KEY), "{text}");
    }
    assert_eq!(loaded.authorizer.len(), 3);
}

#[test]
fn accounts_of_forward_from_that_do_not_exist_cause_warnings() {
    let passwd = format!("bob : {KEY}\n");
    for passwd in [Some(passwd.as_bytes()), None] {
        let files = Files::new(passwd, None);
        let forward_from = vec!["Bob".to_owned(), "bob".to_owned(), KEY.to_owned()];
        let sources = AccessSources { forward_from, ..files.sources(AccessOrder::First) };
        let warnings = load(&sources, PresentFiles::default()).unwrap().warnings;
        let expected = |user: &str| {
            format!(
                "ForwardFrom: there is no account {user} in {}: correct the name, or add the account; name a host by its \
                 address",
                sources.passwd.display()
            )
        };
        let users = ["'Bob'", "'bob'", "(not shown, because it may be a key)"];
        let missing = users.into_iter().filter(|user| passwd.is_none() || *user != "'bob'");
        assert_eq!(warnings, missing.map(expected).collect::<Vec<_>>());
    }
}
