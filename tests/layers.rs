//! The layers of the source: modules and packages may use only those below them.

#![allow(clippy::unwrap_used, reason = "clippy does not see that tests call these functions")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`, from the highest layer to the lowest. Modules of one layer must not use each other.
const MODULES: &[&[&str]] = &[
    &["daemon", "fuzzing", "migrate"],
    &["server"],
    &["handler", "settings"],
    &["limits"],
    &["access", "storage"],
    &["fuzz_models", "logging"],
    &["record"],
    &["optparse", "os"],
];

/// The packages in `crates`, and the workspace packages that each may use.
const PACKAGES: &[(&str, &[&str])] =
    &[("wire", &[]), ("udp", &[]), ("home", &["pyzor-wire"]), ("bench", &["pyzor-udp", "pyzor-wire"])];

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names that follow `crate::` in code.
fn modules_named(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    let name = |text: &str| text.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap().to_owned();
    let names = |rest: &str| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap().split(',').map(|one| name(one.trim())).collect(),
        None => vec![name(rest)],
    };
    words.join(" ").split("crate::").skip(1).flat_map(names).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_module_uses_only_modules_below_it() {
    let layer = |module: &str| MODULES.iter().position(|layer| layer.contains(&module));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    rust_files(&source, &mut files);
    for path in files {
        let inside = path.strip_prefix(&source).unwrap().with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap();
        if ["lib", "bin"].contains(&module) {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} is missing in MODULES"));
        seen.insert(module.to_owned());
        for name in modules_named(&fs::read_to_string(&path).unwrap()) {
            let is_below = name == module || layer(&name).is_some_and(|other| other > own);
            assert!(is_below, "{} uses crate::{name}, which is not below {module}", path.display());
        }
    }
    assert_eq!(seen.len(), MODULES.iter().map(|layer| layer.len()).sum::<usize>(), "{seen:?}");
}

#[test]
fn every_package_uses_only_packages_below_it() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for (package, allowed) in PACKAGES {
        let manifest = fs::read_to_string(crates.join(package).join("Cargo.toml")).unwrap();
        let used = manifest.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
        let ours: Vec<&str> = used.filter(|name| name.starts_with("pyzor")).collect();
        assert_eq!(ours, *allowed, "{package}");
    }
    assert_eq!(fs::read_dir(crates).unwrap().count(), PACKAGES.len());
}
