//! The table of options, compared with the fields of the settings and the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Home;
use crate::settings::SECTION;
use crate::settings::load::{GivenValue, SettingsLoader};
use crate::settings::option::{OptionEffect, OptionKind, ServerOption};
use crate::settings::table::OPTIONS;
use pyzor_home::ini::IniDocument;

/// A value of an option that is not its default.
fn other_value(option: &ServerOption) -> String {
    match option.kind {
        OptionKind::Number(lowest, highest, ..) if option.default == lowest.to_string() => {
            highest.to_string()
        }
        OptionKind::Number(lowest, ..) => lowest.to_string(),
        OptionKind::Truth(_) | OptionKind::StrictTruth(_) => (option.default != "True").to_string(),
        OptionKind::Word(words, _) => {
            words.iter().rfind(|word| **word != option.default).unwrap().to_string()
        }
        OptionKind::Networks(_) => "::/0".to_owned(),
        OptionKind::Words(words, _) => words[0].to_owned(),
        OptionKind::Origin(_) => "0123456789abcdef".to_owned(),
        OptionKind::Metrics(_) => "127.0.0.1:1".to_owned(),
        _ => "x".to_owned(),
    }
}

#[test]
fn every_honoured_option_has_its_own_field_which_holds_the_range() {
    let home = Home::new(None);
    let environment = home.environment();
    let mut loader = SettingsLoader::new(&environment, Vec::new());
    let defaults = format!("{:?}", loader.typed());
    let mut seen = BTreeSet::from([defaults]);
    for option in OPTIONS {
        let mut store = |text: &str| {
            let mut settings = loader.typed();
            let given = GivenValue { text: text.to_owned(), ..GivenValue::default_of(option) };
            loader.store(&mut settings, option, &given).unwrap();
            format!("{settings:?}")
        };
        if let OptionKind::Number(lowest, highest, ..) = option.kind {
            store(&lowest.to_string());
            store(&highest.to_string());
        }
        let settings = store(&other_value(option));
        if option.effect == OptionEffect::Honoured && option.key != "homedir" {
            assert!(seen.insert(settings), "{} has no field of its own", option.key);
        }
    }
    assert_eq!(loader.warnings, [""; 0]);
}

#[test]
fn the_example_has_every_option_with_its_default() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example")).unwrap();
    assert!(
        example.lines().all(|line| line.is_empty() || line.starts_with('#') || line == "[server]"),
        "only comments and the section"
    );
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(option) if !option.starts_with([' ', '#']) => format!("{option}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let document = IniDocument::parse(uncommented.as_bytes(), "config.example").unwrap();
    let found: BTreeMap<&str, &str> =
        document.section(SECTION).iter().map(|value| (value.name.as_str(), value.text.as_str())).collect();
    let expected: BTreeMap<&str, &str> =
        OPTIONS.iter().filter(|option| option.in_file).map(|option| (option.key, option.default)).collect();
    assert_eq!(found, expected);
    let home = Home::new(Some(&uncommented));
    assert_eq!(
        home.messages(&[]),
        (
            Vec::new(),
            vec![
                "SentryLogLevel, UsageSentryLogLevel: ignored, because nothing is ever sent to Sentry"
                    .to_owned()
            ]
        )
    );
}

/// The option's flags as the documentation names them: `--port`, `-p`.
fn flags(option: &ServerOption) -> Vec<String> {
    let long = option.flag.map(|flag| format!("--{flag}"));
    let short = option.short.map(|short| format!("-{short}"));
    long.into_iter().chain(short).collect()
}

#[test]
fn the_reference_has_every_option_with_its_flags_and_default() {
    let reference =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    let found: Vec<&str> =
        reference.lines().filter(|line| line.starts_with("| `") || line.starts_with("| – |")).collect();
    assert_eq!(found.len(), OPTIONS.len(), "a row for each option and no other");
    for option in OPTIONS {
        let key = if option.in_file { format!("`{}`", option.key) } else { "–".to_owned() };
        let flags = flags(option).iter().map(|flag| format!("`{flag}`")).collect::<Vec<_>>().join(", ");
        let flags = if flags.is_empty() { "–" } else { &flags };
        let default =
            if option.default.is_empty() { "none".to_owned() } else { format!("`{}`", option.default) };
        let row = format!("| {key} | {flags} | {default} | ");
        assert!(found.iter().any(|line| line.starts_with(&row)), "there is no row {row}");
    }
}

#[test]
fn the_manual_pages_have_every_option_with_its_default() {
    let page =
        |name: &str| fs::read_to_string(format!("{}/docs/man/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (daemon, file) = (page("pyzord.8"), page("pyzord.conf.5"));
    let flags_of = |line: &str| {
        let words = line.replace(" Ns = Ns", "").replace(',', " ");
        let flags: Vec<String> = words
            .split_whitespace()
            .skip_while(|word| *word != "Fl")
            .filter(|word| !matches!(*word, "Fl" | "Ar" | "number" | "text" | "file" | "path" | "word"))
            .map(|word| format!("-{word}"))
            .collect();
        flags
    };
    let described: Vec<Vec<String>> =
        daemon.lines().filter(|line| line.starts_with(".It Fl")).map(flags_of).collect();
    let mut expected =
        vec![vec!["-h".to_owned(), "--help".to_owned()], vec!["-V".to_owned(), "--version".to_owned()]];
    expected.extend(OPTIONS.iter().filter(|option| option.flag.is_some()).map(|option| {
        let mut flags = flags(option);
        flags.reverse();
        flags
    }));
    let sorted = |mut list: Vec<Vec<String>>| {
        list.sort();
        list
    };
    assert_eq!(sorted(described), sorted(expected));

    let keys: Vec<&str> = file
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm ")?.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    let expected: Vec<&str> =
        OPTIONS.iter().filter(|option| option.in_file).map(|option| option.key).collect();
    let sorted = |mut list: Vec<&str>| {
        list.sort_unstable();
        list.join(" ")
    };
    assert_eq!(sorted(keys), sorted(expected));
    for option in OPTIONS.iter().filter(|option| option.in_file) {
        let begin = file.find(&format!(".It Cm {} = ", option.key)).unwrap();
        let item = &file[begin..];
        let item = &item[..item[1..].find("\n.It ").or_else(|| item.find("\n.El")).unwrap_or(item.len())];
        let default = if option.default.is_empty() { "none" } else { option.default };
        if option.effect == OptionEffect::Honoured {
            assert!(
                item.contains(&format!("Default: {default}")),
                "{}: no default {default} in {item}",
                option.key
            );
        }
    }
}
