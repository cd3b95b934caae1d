//! The fuzz target for config files: problems and warnings are lines without a password, and values are the same after
//! they are written to a plain file and read again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::load::SettingsLoader;
use super::table::{self, OPTIONS};
use super::{Environment, SECTION, ServerInvocation, Settings, SettingsError};
use crate::fuzz_models::{check_lines, check_no_secret};
use crate::storage;
use pyzor_home::ini::{IniDocument, IniValue};

/// The password in the dictionary and the corpus.
const PASSWORD: &str = "correct-horse-battery";

/// Loads the bytes as a config file.
pub(crate) fn target(bytes: &[u8]) {
    let environment = Environment {
        home: Some("/home/pyzor".into()),
        working_directory: PathBuf::from("/"),
        home_of: |user| (user == "pyzor").then(|| PathBuf::from("/home/pyzor")),
    };
    let (texts, settings) = read(&environment, bytes);
    check_lines(&texts);
    let text = String::from_utf8_lossy(bytes);
    if is_only_in_database(&text) {
        check_no_secret(PASSWORD, &texts);
    }
    if let Some(settings) = settings {
        check(&settings);
    }
    check_written_again(bytes);
}

/// Returns all messages, and the settings if the file is valid.
fn read(environment: &Environment, bytes: &[u8]) -> (Vec<String>, Option<Settings>) {
    let mut loader = SettingsLoader::new(environment, Vec::new());
    loader.read_text("config", Ok(bytes.to_vec()));
    match loader.finish() {
        Ok(ServerInvocation::Serve(settings)) => {
            (settings.warnings.iter().chain(&settings.notices).cloned().collect(), Some(*settings))
        }
        Ok(other) => panic!("a config file cannot cause {other:?}"),
        Err(SettingsError::Configuration { problems, warnings, .. }) => {
            assert!(!problems.is_empty());
            (problems.iter().map(ToString::to_string).chain(warnings).collect(), None)
        }
        Err(SettingsError::Usage(text)) => {
            panic!("a config file cannot be a misuse of the command line: {text}")
        }
    }
}

/// Whether the password occurs once, in the value of `DigestDB`, and no reference to that value exists.
fn is_only_in_database(text: &str) -> bool {
    if text.matches(PASSWORD).count() != 1 || text.to_ascii_lowercase().contains("%(digestdb)") {
        return false;
    }
    let Ok(document) = IniDocument::parse(text.as_bytes(), "config") else { return false };
    let of_database = |value: &&IniValue| value.name.eq_ignore_ascii_case("DigestDB");
    document.section(SECTION).iter().find(of_database).is_some_and(|value| value.text.contains(PASSWORD))
}

/// Asserts the guarantees of the table.
fn check(settings: &Settings) {
    assert!(settings.homedir.is_absolute() && settings.digest_db_path.is_absolute());
    for file in [&settings.passwd_file, &settings.access_file, &settings.pid_file] {
        assert!(file.is_absolute() || file.as_os_str().is_empty(), "{file:?}");
    }
    for file in [&settings.log_file, &settings.usage_log_file].into_iter().flatten() {
        assert!(file.is_absolute(), "{file:?}");
    }
    assert!(storage::NAMES.contains(&settings.engine.as_str()));
    assert!(settings.cleanup_age <= i64::MAX as u64 / 1_000_000);
    if let Some(forward) = &settings.forward {
        assert!(forward.source.path.is_absolute() && (forward.reports || forward.whitelists));
        assert!(forward.retries <= 5 && forward.queue >= 10 && forward.rate > 0);
    }
    if let Some(upstream) = &settings.upstream {
        assert!(upstream.source.path.is_absolute() && upstream.rate > 0 && upstream.cache <= 1_000_000);
        let is_between = |age: Duration, most| (1..=most).contains(&age.as_secs());
        assert!(is_between(upstream.timeout, 10));
        assert!(is_between(upstream.found_age, 31_536_000) && is_between(upstream.miss_age, 31_536_000));
    }
    assert!(settings.detach.is_none() && !settings.debug && settings.nice == 0);
}

/// Asserts that the values are the same after they are written to a plain file and read again.
fn check_written_again(bytes: &[u8]) {
    let Ok(document) = IniDocument::parse(bytes, "config") else { return };
    let none = |key: &str| table::by_key(key).map(|option| option.default.to_owned());
    let values = |document: &IniDocument| -> BTreeMap<&str, String> {
        let given = |key: &'static str| {
            let value =
                document.section(SECTION).iter().find(|value| value.name.eq_ignore_ascii_case(key))?;
            Some((key, document.interpolate(SECTION, &value.text, &none).ok()?))
        };
        OPTIONS.iter().filter(|option| option.in_file).filter_map(|option| given(option.key)).collect()
    };
    let before = values(&document);
    let mut plain = format!("[{SECTION}]\n");
    for (key, text) in &before {
        // Several notations exist for a value of several lines, and none for blanks at its ends.
        if text.contains('\n') || text.trim() != text {
            return;
        }
        plain.push_str(&format!("{key} = {}\n", text.replace('%', "%%")));
    }
    match IniDocument::parse(plain.as_bytes(), "config") {
        Ok(document) => assert_eq!(values(&document), before),
        Err(problems) => panic!("{plain:?} has problems: {problems:?}"),
    }
}
