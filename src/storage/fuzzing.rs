//! Names of databases: no error and no description tells the password, and what was written by the rules of
//! URLs is understood.

use super::EngineOptions;
use crate::fuzz_models::{FuzzInput, check_no_secret};

/// The password that the dictionary and the corpus know.
const PASSWORD: &str = "correct-horse-battery";
const SCHEMES: [&str; 8] =
    ["mysql", "mariadb", "redis", "rediss", "valkey", "redis+cluster", "redis+sentinel", "redis+unix"];

/// Any text, and a name with a password in its place.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    match input.byte() % 4 {
        0 => check_any(&String::from_utf8_lossy(input.rest())),
        1 => check_parts(&mut input),
        kind => check_url(&mut input, kind == 2),
    }
}

/// What both kinds of servers make of it.
fn both(dsn: &str) -> [Result<(String, String), String>; 2] {
    [super::mysql::fuzzing::parse_dsn(dsn), super::redis::fuzzing::parse_dsn(dsn)]
}

/// No error repeats any of the text.
fn check_any(dsn: &str) {
    for result in both(dsn) {
        if let Err(text) = result {
            check_no_secret(PASSWORD, [&text]);
            assert!(!text.contains('\n') && !text.is_empty());
        }
    }
    for engine in super::NAMES {
        let options = EngineOptions { dsn: dsn.to_owned(), ..EngineOptions::default() };
        if let Err(text) = super::check(engine, &options) {
            check_no_secret(PASSWORD, [&text]);
        }
    }
}

/// A name whose password is in its place is told without it.
fn check_secret(dsn: &str) -> [Option<String>; 2] {
    check_any(dsn);
    both(dsn).map(|result| {
        let (description, all) = result.ok()?;
        check_no_secret(PASSWORD, [&description]);
        Some(all)
    })
}

/// Parts between commas.
fn check_parts(input: &mut FuzzInput<'_>) {
    let password = format!("{}{PASSWORD}{}", input.text_until(0), input.text_until(0));
    let [one, two, three] = [0; 3].map(|_| input.text_until(0));
    // With a comma of its own the password is where none is expected.
    let is_odd = |part: &&String| part.contains([',', '/', ':']) || part.contains(PASSWORD);
    if password.contains(',') || [&one, &two, &three].iter().any(is_odd) {
        return;
    }
    check_secret(&format!("{one},{two},{password},{three},table"));
    let [mysql, _] = check_secret(&format!("{one},user,{password},database,table"));
    let mysql = mysql.filter(|_| !one.contains('%'));
    if let Some(all) = mysql {
        assert!(all.contains(&format!("{password:?}")), "{all}");
    }
    let [_, redis] = check_secret(&format!("{one},6379,{password},0"));
    let all = redis.unwrap_or_else(|| panic!("{one:?} is no host"));
    assert!(all.contains(&format!("{password:?}")), "{all}");
}

/// A URL, written by the rules or with everything as it is.
fn check_url(input: &mut FuzzInput<'_>, by_rules: bool) {
    let scheme = input.pick(&SCHEMES);
    let has_port = input.flip();
    let parameter = input.pick(&[
        "",
        "",
        "?ca=/x.pem",
        "?verify=no",
        "?db=1",
        "?x=y",
        "?socket=/s",
        "?sentinel_password=z",
    ]);
    let user = input.text_until(0);
    let password = format!("{}{PASSWORD}{}", input.text_until(0), input.text_until(0));
    let write = |text: &str| if by_rules { encoded(text) } else { text.to_owned() };
    let (login, port) =
        (format!("{}:{}", write(&user), write(&password)), if has_port { ":7000" } else { "" });
    // A user with a colon or an at sign has to be written by the rules, or the password begins elsewhere; and
    // parameters in a password look like any others.
    let is_odd = user.contains([':', '@', '/', '?', ',']) || user.contains(PASSWORD);
    if !by_rules && (is_odd || password.contains('?') && password.contains('=')) {
        return;
    }
    let (path, is_mysql) = match scheme {
        "mysql" | "mariadb" => ("/database/table", true),
        "redis+sentinel" => ("/service/0", false),
        "redis+unix" => ("/run/redis.sock", false),
        _ => ("/0", false),
    };
    let host = if scheme == "redis+unix" { String::new() } else { format!("host{port}") };
    let found = check_secret(&format!("{scheme}://{login}@{host}{path}{parameter}"));
    if !by_rules || !parameter.is_empty() {
        return;
    }
    let all = found.into_iter().nth(usize::from(!is_mysql)).flatten();
    let all = all.unwrap_or_else(|| panic!("{scheme} with {user:?} is refused"));
    assert!(all.contains(&format!("{password:?}")), "{password:?} is not in {all}");
    assert!(user.is_empty() || all.contains(&format!("{user:?}")), "{user:?} is not in {all}");
}

/// By the rules of URLs.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
