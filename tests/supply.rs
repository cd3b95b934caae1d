//! The supply chain: licences and origins of dependencies, and the compiler settings for this project's own code.
//!
//! Uses the metadata of cargo only, so it needs no network. `make audit` runs cargo-deny as well, which checks for
//! advisories.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover the functions that tests call"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spdx::Expression;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn toml(name: &str) -> toml::Table {
    fs::read_to_string(root().join(name)).unwrap().parse().unwrap()
}

/// Every package used by the programs or their tests.
fn packages() -> Vec<Value> {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// The packages of this workspace, which come from no registry.
fn ours(packages: &[Value]) -> impl Iterator<Item = &Value> {
    let is_ours = |path: &str| Path::new(path).starts_with(root());
    packages.iter().filter(move |package| {
        package["manifest_path"].as_str().is_some_and(is_ours) && package["source"].is_null()
    })
}

fn others(packages: &[Value]) -> impl Iterator<Item = &Value> {
    let ours: BTreeSet<&str> = ours(packages).map(name).collect();
    packages.iter().filter(move |package| !ours.contains(name(package)))
}

#[test]
fn every_licence_is_compatible_with_ours() {
    let deny = toml("deny.toml");
    let allowed: Vec<spdx::Licensee> = deny["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|licence| spdx::Licensee::parse(licence.as_str().unwrap()).unwrap())
        .collect();
    let refused: Vec<String> = packages()
        .iter()
        .filter_map(|package| {
            let text = package["license"].as_str().unwrap_or("no licence");
            let is_allowed = Expression::parse_mode(text, spdx::ParseMode::LAX).is_ok_and(|expression| {
                expression.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted)))
            });
            (!is_allowed).then(|| format!("{}: {text}", name(package)))
        })
        .collect();
    assert!(refused.is_empty(), "licences missing in deny.toml: {refused:#?}");
}

#[test]
fn every_dependency_comes_from_the_public_registry_and_none_is_banned() {
    let deny = toml("deny.toml");
    let banned: BTreeSet<&str> =
        deny["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["name"].as_str().unwrap()).collect();
    assert!(banned.contains("openssl-sys"));
    for package in others(&packages()) {
        let source = package["source"].as_str().unwrap_or("a directory");
        let is_public = source.starts_with("registry+") && source.ends_with("/crates.io-index");
        assert!(is_public, "{} comes from {source}", name(package));
        assert!(!banned.contains(name(package)), "{} is banned", name(package));
    }
}

#[test]
fn every_direct_dependency_has_a_version_and_a_documented_purpose() {
    let packages = packages();
    let is_theirs = |dependency: &&Value| !dependency["source"].is_null();
    let dependencies: Vec<&Value> = ours(&packages)
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(is_theirs)
        .collect();
    for dependency in &dependencies {
        assert_ne!(dependency["req"], "*", "{dependency}");
    }
    let wanted: BTreeSet<&str> = dependencies.into_iter().map(name).collect();
    let page = fs::read_to_string(root().join("docs/development/dependencies.md")).unwrap();
    let listed: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).collect();
    assert_eq!(listed.keys().copied().collect::<BTreeSet<_>>(), wanted);
    for (name, row) in listed {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells.len(), 2, "{name}: purpose and licence");
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        // Older packages write OR as a slash.
        let licence = package["license"].as_str().unwrap().replace('/', " OR ");
        assert_eq!(cells[1].trim_end_matches(" |"), licence, "{name}");
    }
}

#[test]
fn overflow_is_checked_and_unsafe_files_are_documented() {
    let cargo = toml("Cargo.toml");
    assert_eq!(cargo["profile"]["release"]["overflow-checks"].as_bool(), Some(true));
    let lints = &cargo["workspace"]["lints"]["rust"];
    assert_eq!(lints[concat!("unsafe", "_code")].as_str(), Some("deny"));
    let mut unsafe_files = BTreeSet::new();
    let mut files = 0;
    for package in ours(&packages()) {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", name(package));
    }
    // In two parts, so that this file is not one of them.
    let lint = concat!("unsafe", "_code");
    let mut directories = ["src", "crates", "benches", "tests"].map(|name| root().join(name)).to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files += 1;
                let text = fs::read_to_string(&path).unwrap();
                if text.contains(lint) {
                    unsafe_files.insert(path.strip_prefix(root()).unwrap().display().to_string());
                }
            }
        }
    }
    assert!(files > 50, "only {files} files");
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let documented: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once('`'))
        .map(|(path, _)| path.to_owned())
        .filter(|path| path.starts_with("src/") || path.starts_with("crates/"))
        .collect();
    assert_eq!(unsafe_files, documented);
}

#[test]
fn lock_file_of_the_fuzz_targets_is_current() {
    let lock = toml("fuzz/Cargo.lock");
    let locked = lock["package"].as_array().unwrap();
    let packages = packages();
    for package in ours(&packages) {
        let Some(entry) = locked.iter().find(|entry| entry["name"].as_str() == Some(name(package))) else {
            panic!("{} is missing in fuzz/Cargo.lock: run cargo check in fuzz/ and commit it", name(package));
        };
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        // The lock file has no dependencies of tests.
        let expected: BTreeSet<&str> = dependencies.filter(|used| used["kind"].is_null()).map(name).collect();
        let found = entry.get("dependencies").and_then(|found| found.as_array()).into_iter().flatten();
        // A version follows the name if there are several.
        let found: BTreeSet<&str> =
            found.map(|name| name.as_str().unwrap().split(' ').next().unwrap()).collect();
        assert_eq!(found, expected, "{}: run cargo check in fuzz/ and commit its Cargo.lock", name(package));
    }
}
