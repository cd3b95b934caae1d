//! The fuzz target of database names: no error and no description contains the password, and URLs that follow the rules
//! are parsed.

use super::EngineOptions;
use crate::fuzz_models::{FuzzInput, check_no_secret};

/// The password in the dictionary and the corpus.
const PASSWORD: &str = "correct-horse-battery";
const SCHEMES: [&str; 8] =
    ["mysql", "mariadb", "redis", "rediss", "valkey", "redis+cluster", "redis+sentinel", "redis+unix"];

/// Checks any text, or a name that contains a password.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    match input.byte() % 4 {
        0 => check_any(&String::from_utf8_lossy(input.rest())),
        1 => check_parts(&mut input),
        kind => check_url(&mut input, kind == 2),
    }
}

/// Parses a name as that of a MySQL and of a Redis database.
fn parse_both(dsn: &str) -> [Result<(String, String), String>; 2] {
    [super::mysql::fuzzing::parse_dsn(dsn), super::redis::fuzzing::parse_dsn(dsn)]
}

/// Checks that errors are one line and do not contain the password.
fn check_any(dsn: &str) {
    for result in parse_both(dsn) {
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

/// Checks that the description of a name does not contain the password. Returns all parts of the name.
fn check_secret(dsn: &str) -> [Option<String>; 2] {
    check_any(dsn);
    parse_both(dsn).map(|result| {
        let (description, all) = result.ok()?;
        check_no_secret(PASSWORD, [&description]);
        Some(all)
    })
}

/// Checks names of the form `host,port,password,database`.
fn check_parts(input: &mut FuzzInput<'_>) {
    let password = format!("{}{PASSWORD}{}", input.text_until(0), input.text_until(0));
    let [one, two, three] = [0; 3].map(|_| input.text_until(0));
    // A comma moves the password to another position.
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

/// Checks URLs, percent-encoded or unencoded.
fn check_url(input: &mut FuzzInput<'_>, is_encoded: bool) {
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
    let write = |text: &str| if is_encoded { percent_encoded(text) } else { text.to_owned() };
    let (login, port) =
        (format!("{}:{}", write(&user), write(&password)), if has_port { ":7000" } else { "" });
    // Unencoded, a colon or an at sign in the user moves the beginning of the password, and a password that looks like
    // parameters is parsed as such.
    let is_odd = user.contains([':', '@', '/', '?', ',']) || user.contains(PASSWORD);
    if !is_encoded && (is_odd || password.contains('?') && password.contains('=')) {
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
    if !is_encoded || !parameter.is_empty() {
        return;
    }
    let all = found.into_iter().nth(usize::from(!is_mysql)).flatten();
    let all = all.unwrap_or_else(|| panic!("{scheme} with {user:?} is refused"));
    assert!(all.contains(&format!("{password:?}")), "{password:?} is not in {all}");
    assert!(user.is_empty() || all.contains(&format!("{user:?}")), "{user:?} is not in {all}");
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
